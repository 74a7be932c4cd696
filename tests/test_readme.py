"""What the README shows runs as it stands."""

import json
import pathlib

import numpy as np

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def snippet(first: str) -> str:
  """The Python block that begins with this line."""
  return next(b for b in README.split("```python\n") if b.startswith(first)).partition("```")[0]


def test_the_first_program_trains_on_reviews(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  reviews = [
    {
      "reviewerID": f"u{user}",
      "asin": f"i{(user + at) % 7}",
      "overall": 5.0,
      "unixReviewTime": 86_400 * at,
    }
    for user, at in np.ndindex(12, 6)
  ]
  code = snippet("from recjax.data import examples").replace("steps=10_000", "steps=4")
  pathlib.Path("reviews_Beauty_5.json").write_text("\n".join(map(json.dumps, reviews)))
  there: dict = {}
  exec(code.replace(".json.gz", ".json").replace(" 256,", " 8,"), there)
  assert int(there["result"].state.step) == 4
  assert there["result"].metrics["valid/recall@10"] == 1.0  # of seven items
  assert (tmp_path / "runs/beauty/metrics.jsonl").exists()
