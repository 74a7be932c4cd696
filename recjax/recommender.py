"""What a user holds after training: a system, its parameters and its catalogue, asked by raw ids.

    recommender = Recommender.load("runs/shop")
    recommender.recommend([["item 3", "item 7"]], k=5).titles

A finished run keeps one in WORKDIR/recommender, a folder that needs nothing else of the run:

  recommender.json     system, config, how it is asked, the hash of every file; written last
  params.safetensors   learned; assets.safetensors: read; names are paths, a/b/c
  items.jsonl          line n, from 1, is item n: its raw id and title
  users.jsonl          line n, from 0, is the raw id of user n; 0 is PAD
  semantic_ids/        of systems on semantic ids, as `recjax.semid.artefact` writes it
  lsa.safetensors      where texts become vectors by LSA

A changed byte of the folder is an error (`recjax.bundle`).

T history, I items and U users (PAD included).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import recjax
from recjax import bundle, growth, serving
from recjax.data import storage
from recjax.data.errors import DataError
from recjax.data.interactions import strings, with_pad
from recjax.data.ragged import Ragged
from recjax.growth import Collisions, Text
from recjax.semid import artefact
from recjax.systems import SYSTEMS
from recjax.text import lsa
from recjax.types import PAD, Assets, Params, Ranked, System

ABOUT, FOLDER = "recommender.json", "recommender"
ROWS = 256  # histories answered at a time
_FORMAT = 1


class Recommendations(NamedTuple):
  """A list for each history, best first; shorter than k where no more is left to recommend."""

  ids: list[list[str]]
  scores: list[list[float]]
  titles: list[list[str]]


@dataclasses.dataclass(frozen=True, eq=False)
class Recommender:
  """A trained system beside its catalogue. A value: `add_items` gives another one."""

  system: str  # a name in `recjax.systems.SYSTEMS`
  config: Any  # the system's Config
  params: Params
  assets: Assets
  items: np.ndarray  # [I] raw ids, row 0 is ""
  titles: np.ndarray  # [I]
  users: np.ndarray  # [U] raw ids, row 0 is ""
  max_len: int  # T, how much of a history is read
  deny_seen: bool = False  # whether what a history holds is left out
  ids: artefact.SemanticIds | None = None  # of systems on semantic ids
  collisions: Collisions | None = None  # of these ids
  text: Text | None = None  # where new items can come as text

  def __post_init__(self):
    if _made(self.system, self.config).recommend is None:
      raise ValueError(f"{self.system} cannot recommend: it scores candidates that it is given")
    if len(self.items) != len(self.titles) or self.items[PAD] != "" or self.users[PAD] != "":
      raise ValueError(
        f"{len(self.items)} items and {len(self.titles)} titles: one for each, and row 0 is PAD"
      )
    known = getattr(self.config, "num_items", len(self.items))
    if known < len(self.items) or (known > len(self.items) and self.system != "content"):
      raise ValueError(  # content alone has room for more
        f"the system's config has {known - 1} items, the recommender {len(self.items) - 1}"
      )
    if self.ids is not None and self.ids.items.tolist() != self.items.tolist():
      raise ValueError("the semantic ids are of other items, or in another order")

  def __repr__(self) -> str:
    return f"Recommender({self.system}, {len(self.items) - 1:,} items)"

  def recommend(
    self,
    histories: Sequence[Sequence[str]],
    k: int = 10,
    *,
    allow: Sequence[Sequence[str]] | None = None,
    deny: Sequence[Sequence[str]] | None = None,
    users: Sequence[str | None] | None = None,
  ) -> Recommendations:
    """The k best items after each history of raw item ids, oldest first.

    `allow` and `deny` are a list of items for each history: these and no others, none of these.
    `users` are raw ids, None for one who is new. Of a history the last `max_len` items are read.
    """
    self._check_k(k)
    read = self._numbered("history", histories, len(histories))
    empty = np.flatnonzero(read.lengths == 0)
    if len(empty):
      raise DataError(f"history {empty[0]} is empty", remedy="Leave the row out, or fill it.")
    lists = {}
    if allow is not None:
      lists["allow"] = self._numbered("allow", allow, len(read))
    if deny is not None or self.deny_seen:
      given = self._numbered("deny", [[]] * len(read) if deny is None else deny, len(read))
      lists["deny"] = _joined(given, read) if self.deny_seen else given
    columns = self._numbered_users(users, len(read))
    answers = Recommendations([], [], [])
    for begin in range(0, len(read), ROWS):
      rows = np.arange(begin, min(begin + ROWS, len(read)))
      # Filled with the last row up to a power of two, and lists with PAD: few shapes to compile.
      filled = np.pad(rows, (0, _power(len(rows)) - len(rows)), mode="edge")
      batch = {"user": columns[filled], "history": read.left_padded(filled, self.max_len)}
      for name, each in lists.items():
        batch[name] = each.right_padded(filled, _power(int(each.lengths.max())))
      ranked = self._ranked(batch, k)
      for ids, scores in zip(ranked.ids[: len(rows)], ranked.scores[: len(rows)], strict=True):
        found = ids != PAD
        answers.ids.append(self.items[ids[found]].tolist())
        answers.scores.append(scores[found].tolist())
        answers.titles.append(self.titles[ids[found]].tolist())
    return answers

  def _ranked(self, batch: Mapping[str, np.ndarray], k: int) -> Ranked:
    answer = _answer(self.system, self.config)
    try:
      return jax.device_get(answer(self.params, self.indexed, batch, k=k))
    except KeyError as error:  # while it is traced
      raise DataError(
        f"{self.system} is asked by {error}, not by histories of items alone",
        remedy="Ask the system itself: `recjax.systems`.",
      ) from error

  @functools.cached_property
  def indexed(self) -> Assets:
    """The assets as `System.recommend` reads them."""
    system = _made(self.system, self.config)
    return self.assets if system.index is None else jax.jit(system.index)(self.params, self.assets)

  @functools.cached_property
  def _rows(self) -> dict[str, int]:
    return {item: row for row, item in enumerate(self.items.tolist()) if row != PAD}

  @functools.cached_property
  def _user_rows(self) -> dict[str, int]:
    return {user: row for row, user in enumerate(self.users.tolist()) if row != PAD}

  def _check_k(self, k: int) -> None:
    if not 1 <= k <= len(self.items) - 1:
      raise DataError(
        f"k is {k}, but there are {len(self.items) - 1} items",
        remedy="Ask for at least one, and for no more than there are.",
      )

  def _numbered(self, name: str, lists: Sequence[Sequence[str]], count: int) -> Ragged:
    """Lists of raw ids as rows of items."""
    if isinstance(lists, str) or any(isinstance(each, str) for each in lists):
      raise DataError(
        f"`{name}` must be a list of lists of item ids, a list for each history",
        remedy='Of one history: [["first id", "second id"]].',
      )
    if len(lists) != count:
      raise DataError(f"`{name}` has {len(lists)} lists for {count} histories")
    for row, each in enumerate(lists):
      for item in each:
        if item not in self._rows:
          raise DataError(
            f"no item {item!r} ({name} {row}) among the {len(self.items) - 1} of this recommender",
            remedy="Leave it out, or bring it by `add_items` where the system takes new items.",
          )
    return Ragged.from_rows([[self._rows[item] for item in each] for each in lists])

  def _numbered_users(self, users: Sequence[str | None] | None, count: int) -> np.ndarray:
    """[count] int32, PAD for one who is new."""
    fields = {f.name for f in dataclasses.fields(self.config)}
    knows = "num_users" in fields and not getattr(SYSTEMS[self.system], "NEW_USERS", False)
    users = [None] * count if users is None else users
    if isinstance(users, str) or len(users) != count:
      raise DataError(f"`users` must be a list of {count} raw ids, one for each history")
    for row, user in enumerate(users):
      if user is None and knows:
        raise DataError(
          f"{self.system} learns a vector for each user, and row {row} names none",
          remedy="Give `users`, those of the training; a new one needs training again.",
        )
      if user is not None and user not in self._user_rows:
        raise DataError(
          f"no user {user!r} (row {row}) among the {len(self.users) - 1} of the training",
          remedy="A new user is None, where the system can do without.",
        )
    rows = [PAD if user is None else self._user_rows[user] for user in users]
    return np.array(rows, np.int32)

  def add_items(self, rows: Iterable[Mapping[str, Any]]) -> Recommender:
    """A recommender that knows these items too; the old ones keep their rows and their codes.

    Scores of the old stay as well, but where TIGER's `softmax` is "children": the new then have a
    share of the probability, and old items lose what they gain.

    A row has `id`, `title`, and either `vector` or the fields that the run's template asks for.
    Only for systems whose items come from text. Nothing is compiled anew while there is room: the
    first time there is none, and room is made: TIGER's doubles, `content`'s grows by a quarter.
    """
    rows = rows if isinstance(rows, Mapping) else list(rows)
    return dataclasses.replace(self, **growth.grown(self, rows))

  def save(self, folder: str | os.PathLike) -> pathlib.Path:
    """Writes the folder, whole or not at all; one that `save` wrote before is replaced."""
    folder, text = pathlib.Path(folder).absolute(), self.text
    is_lsa = text is not None and isinstance(text.encoder, lsa.Lsa)
    about = {
      "format": _FORMAT,
      "recjax": recjax.__version__,
      "system": self.system,
      "config": dataclasses.asdict(self.config),
      "items": len(self.items) - 1,
      "max_len": self.max_len,
      "deny_seen": self.deny_seen,
      "collisions": self.collisions and self.collisions._asdict(),
      "text": text and {**text._asdict(), "encoder": "lsa" if is_lsa else text.encoder},
      "semantic_ids": self.ids is not None,
    }

    def fill(part: pathlib.Path) -> None:
      (part / "params.safetensors").write_bytes(bundle.dump(self.params))
      (part / "assets.safetensors").write_bytes(bundle.dump(self.assets))
      self._write_items(part / "items.jsonl")
      storage.save_ids(self.users, part / "users.jsonl")
      if is_lsa:
        text.encoder.save(part / "lsa.safetensors")
      if self.ids is not None:
        self.ids.save(part / "semantic_ids")

    bundle.write(folder, ABOUT, about, fill)
    return folder

  def _write_items(self, path: pathlib.Path) -> None:
    named = zip(self.items[1:].tolist(), self.titles[1:].tolist(), strict=True)
    lines = (json.dumps({"id": item, "title": title}, ensure_ascii=False) for item, title in named)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

  @classmethod
  def load(cls, path: str | os.PathLike) -> Recommender:
    """From a run's workdir, or from the folder that `save` wrote."""
    folder = _found(pathlib.Path(path).absolute())
    seal = bundle.seal(folder, ABOUT)
    about = bundle.read(folder, ABOUT)
    if about["format"] != _FORMAT:
      raise DataError(
        f"of format {about['format']}, written by recjax {about['recjax']}; recjax "
        f"{recjax.__version__} reads {_FORMAT}",
        path=folder / ABOUT,
        remedy=f"Install recjax {about['recjax']}, or train again.",
      )
    items, titles = _read_items(folder / "items.jsonl")
    text = about["text"] and Text(**about["text"])
    if text is not None and text.encoder == "lsa":
      text = text._replace(encoder=lsa.load(folder / "lsa.safetensors"))
    arrays = (bundle.load(folder / f"{name}.safetensors") for name in ("params", "assets"))
    params, assets = (jax.tree.map(jnp.asarray, tree) for tree in arrays)
    loaded = cls(
      about["system"],
      _config(about, folder / ABOUT),
      params,
      assets or (),
      items,
      titles,
      storage.load_ids(folder / "users.jsonl"),
      max_len=about["max_len"],
      deny_seen=about["deny_seen"],
      ids=artefact.load(folder / "semantic_ids") if about["semantic_ids"] else None,
      collisions=about["collisions"] and Collisions(**about["collisions"]),
      text=text,
    )
    if bundle.seal(folder, ABOUT) != seal:
      raise DataError("it was written anew while it was read", path=folder, remedy="Load it again.")
    return loaded

  def export(
    self,
    folder: str | os.PathLike,
    *,
    k: int = 10,
    deny: int | None = None,
    platforms: Sequence[str] = serving.PLATFORMS,
  ) -> pathlib.Path:
    """A folder with the recommendation as a StableHLO artefact, see `recjax.serving`.

    `deny` is how many denied items there is room for, by default as many as a history is long.
    """
    self._check_k(k)
    folder, deny = pathlib.Path(folder).absolute(), self.max_len if deny is None else deny
    if deny < 1:
      raise DataError(f"deny is {deny}", remedy="Leave room for at least one denied item.")
    shape = {"k": k, "max_len": self.max_len, "deny": deny, "platforms": list(platforms)}
    system = _made(self.system, self.config)
    made = serving.exported(system, self.params, self.indexed, **shape)
    about = f"{self.system} over {len(self.items) - 1} items, by recjax {recjax.__version__}"
    readme = serving.describe(about, deny_seen=self.deny_seen, **shape)

    def fill(part: pathlib.Path) -> None:
      serving.write(part, made, self.params, self.indexed, readme)
      self._write_items(part / "items.jsonl")
      storage.save_ids(self.users, part / "users.jsonl")

    bundle.write(folder, "export.json", {"system": self.system, **shape}, fill)
    return folder


@functools.lru_cache(maxsize=16)
def _made(system: str, config: Any) -> System:
  if system not in SYSTEMS:
    raise DataError(f"no system {system!r}; there is {', '.join(sorted(SYSTEMS))}")
  return SYSTEMS[system].make(config)


@functools.lru_cache(maxsize=16)
def _answer(system: str, config: Any) -> Callable[..., Any]:
  """`recommend`, compiled once for each shape whichever recommender asks."""
  return jax.jit(_made(system, config).recommend, static_argnames="k")


def _power(n: int) -> int:
  """The power of two at or above n, 1 for none."""
  return 1 << max(n - 1, 0).bit_length()


def _joined(a: Ragged, b: Ragged) -> Ragged:
  return Ragged.from_rows([np.concatenate([a[i], b[i]]) for i in range(len(a))])


def _found(path: pathlib.Path) -> pathlib.Path:
  """The recommender's folder, given that or the run's."""
  for folder in (path, path / FOLDER):
    bundle.recover(folder, ABOUT)
    if (folder / ABOUT).exists():
      return folder
  if not path.is_dir():
    raise DataError("no such folder", path=path, remedy="Give a run's workdir.")
  if (path / FOLDER).is_dir() or not (path / "config.json").exists():
    raise DataError(
      f"no {ABOUT}: neither a finished run's workdir nor its {FOLDER}/, copied whole",
      path=path,
      remedy="Give a run's workdir, or copy the folder again.",
    )
  if _in_words(path / "config.json"):
    raise DataError(
      "a run in words leaves no recommender: its system is asked by prompts, not by item ids",
      path=path,
      remedy="Its figures are in results.json, the lists of its test users (where it ranks items) "
      "in recommendations.jsonl; for others ask the system itself: `recjax.systems`.",
    )
  raise DataError(
    "the run has not finished: it has a config.json, and no recommender yet",
    path=path,
    remedy="Start it again with the same config and --workdir: it goes on where it stopped.",
  )


def _in_words(path: pathlib.Path) -> bool:
  """Whether the config of a run has a section `prompts`."""
  try:
    return "prompts" in json.loads(path.read_text(encoding="utf-8"))
  except ValueError:  # a config that is damaged tells nothing
    return False


def _config(about: Mapping[str, Any], path: pathlib.Path) -> Any:
  """The Config that the folder was written with."""
  if about["system"] not in SYSTEMS:
    raise DataError(
      f"no system {about['system']!r} in recjax {recjax.__version__} "
      f"(written by {about['recjax']}); there is {', '.join(sorted(SYSTEMS))}",
      path=path,
      remedy=f"Install recjax {about['recjax']}.",
    )
  try:
    return _rebuilt(SYSTEMS[about["system"]].Config, about["config"])
  except (TypeError, ValueError) as error:
    raise DataError(
      f"its config does not fit {about['system']} of recjax {recjax.__version__}: {error}",
      path=path,
      remedy=f"Install recjax {about['recjax']}, which wrote it, or train again.",
    ) from None


def _rebuilt(cls: type, told: Mapping[str, Any]) -> Any:
  """A dataclass from JSON: lists were tuples, and a dict may be a dataclass within."""
  kinds = typing.get_type_hints(cls)

  def value(name: str, x: Any) -> Any:
    if isinstance(x, dict) and dataclasses.is_dataclass(kinds.get(name)):
      return _rebuilt(kinds[name], x)
    return _tuples(x)

  return cls(**{name: value(name, x) for name, x in told.items()})


def _tuples(x: Any) -> Any:
  return tuple(map(_tuples, x)) if isinstance(x, list) else x


def _read_items(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """Raw ids and titles, with PAD in front."""
  with path.open(encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
  ids, titles = (strings([row[name] for row in rows]) for name in ("id", "title"))
  return with_pad(ids), with_pad(titles)
