"""The systems by name: each a module with a frozen `Config` and `make(cfg) -> System`."""

from __future__ import annotations

from types import ModuleType

from recjax.systems.collaborative import item_knn, popularity
from recjax.systems.generative import tiger

# name -> module, lower case and underscores; a new system is one import and one line here
SYSTEMS: dict[str, ModuleType] = {
  "item_knn": item_knn,
  "popularity": popularity,
  "tiger": tiger,
}
