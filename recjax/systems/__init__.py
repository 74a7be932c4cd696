"""The systems by name: each a module with a frozen `Config` and `make(cfg) -> System`."""

from __future__ import annotations

from types import ModuleType

from recjax.systems.collaborative import (
  content,
  fism,
  graphrec,
  hybrid,
  ials,
  item_knn,
  lightgcn,
  markov,
  mf,
  neumf,
  popularity,
  text_graph,
  user_knn,
)
from recjax.systems.generative import p5, t5_rating, tiger, tiger_lm
from recjax.systems.llm import tallrec
from recjax.systems.news import ebnr, lstur, naml, npa, nrms
from recjax.systems.pretrain import adaptssr, cl4srec, coserec, duorec
from recjax.systems.sequential import (
  acvae,
  bert4rec,
  caser,
  dreamrec,
  dros,
  fdsa,
  gru4rec,
  s3rec,
  sasrec,
)

# name -> module, lower case and underscores; a new system is one import and one line here
SYSTEMS: dict[str, ModuleType] = {
  "acvae": acvae,
  "adaptssr": adaptssr,
  "bert4rec": bert4rec,
  "caser": caser,
  "cl4srec": cl4srec,
  "content": content,
  "coserec": coserec,
  "dreamrec": dreamrec,
  "dros": dros,
  "duorec": duorec,
  "ebnr": ebnr,
  "fdsa": fdsa,
  "fism": fism,
  "graphrec": graphrec,
  "gru4rec": gru4rec,
  "hybrid": hybrid,
  "ials": ials,
  "item_knn": item_knn,
  "lightgcn": lightgcn,
  "lstur": lstur,
  "markov": markov,
  "mf": mf,
  "naml": naml,
  "neumf": neumf,
  "npa": npa,
  "nrms": nrms,
  "p5": p5,
  "popularity": popularity,
  "s3rec": s3rec,
  "sasrec": sasrec,
  "t5_rating": t5_rating,
  "tallrec": tallrec,
  "text_graph": text_graph,
  "tiger": tiger,
  "tiger_lm": tiger_lm,
  "user_knn": user_knn,
}
