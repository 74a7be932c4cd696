"""Files as they are downloaded -> `Interactions`, `Catalog`, `Impressions`, `Links`.

| source | function |
|---|---|
| any csv, tsv, JSON lines, parquet | `tables.interactions`, `tables.catalog`, `tables.read` |
| Amazon 2014, 2018, 2023 | `amazon.reviews`, `amazon.ratings`, `amazon.metadata` |
| MovieLens 100K to 32M | `movielens.ratings`, `movielens.movies`, `movielens.users` |
| Yelp | `yelp.reviews`, `yelp.businesses` |
| Steam version 2 | `steam.reviews`, `steam.games` |
| Steam version 1 | `steam.australian_reviews`, `steam.australian_items` |
| MIND | `mind.behaviors`, `mind.news`, `mind.sampled_behaviors`, `mind.sampled_news` |
| DKN | `mind.dkn`, `mind.dkn_news` |
| LightGCN, Gowalla | `edges.lists` |
| Last.fm, any weighted edges | `edges.weighted` |
| trust and friendship | `edges.links` |
| GraphRec | `edges.graphrec` |
| S3-Rec, P5, BERT4Rec | `sequences.grouped`, `sequences.items`, `sequences.attributes` |
| SASRec | `sequences.pairs` |
| NCF | `sequences.ncf_ratings`, `sequences.ncf_negatives` |
| id maps beside them | `sequences.p5_maps` `.id_map` `.names`, applied by `.renamed` |
| RecBole atomic files | `recbole.interactions`, `recbole.catalog`, `recbole.links` |
| TALLRec | `instructions.tallrec`, `instructions.tallrec_texts` |
| CoLLM | `instructions.collm`, `instructions.titles` |
| MiniOneRec | `instructions.minionerec`, `instructions.minionerec_items` |
| XRec | `instructions.explanations` |
| published semantic ids and vectors | `semantic_ids.semantic_ids`, `semantic_ids.vectors` |

Compression goes by extension (.gz .bz2 .xz .zst .zstd). What cannot be used is a `DataError` with
file and line; `on_error="skip"` leaves such lines out, counts them in `.skipped` and logs it.
Files that belong together (train and test, ratings and trust) are numbered alike by `share_ids`.
"""

from recjax.data.readers import (
  amazon,
  edges,
  instructions,
  mind,
  movielens,
  recbole,
  semantic_ids,
  sequences,
  steam,
  tables,
  yelp,
)
from recjax.data.readers.share import share_ids

__all__ = [
  "amazon",
  "edges",
  "instructions",
  "mind",
  "movielens",
  "recbole",
  "semantic_ids",
  "sequences",
  "share_ids",
  "steam",
  "tables",
  "yelp",
]
