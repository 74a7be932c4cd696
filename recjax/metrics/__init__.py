"""Metrics: pure functions, jit-able unless they are of text, divided once at the end.

  module          | of                                | what it holds
  ----------------|-----------------------------------|------------------------------------------
  additive        | anything                          | Mean, mean, mean_by, merge
  ranking         | ranks or lists over the catalogue | ranks, recall, precision, hit rate, NDCG,
                  |                                   | MRR, MAP; sampled_ranks
  impressions     | candidate lists with labels       | AUC, MRR, NDCG of each impression
  roc             | all scores with labels            | AUC, UAUC, GAUC; a histogram that adds up
  classification  | probabilities and classes         | log-loss, accuracy, F1, calibration
  regression      | ratings                           | RMSE, MAE
  text            | token sequences (on the host)     | BLEU, ROUGE, distinct-n, perplexity
  beyond          | lists                             | coverage, Gini, novelty, diversity, ARP
  fairness        | lists by sensitive value          | Jaccard, SERP*, PRAG*, SNSR, SNSV
  statistics      | users or seeds (on the host)      | bootstrap, t, sign flip; paired tests

Two kinds of result. A metric of an example is [B], 0 where its mask `where` is False:
`mean(values, where)` makes it a statistic. A metric of a set is a statistic from the start. A
statistic adds up over batches, devices and hosts, and `finish()` divides once:

  parts = [mean(recall_at(ranks, k=10), where) for ...]   # any split into batches
  merge(*parts).finish()

A slice (warm or cold items, active users) is a mask. Nothing counted is 0, never NaN: look at
the count.
"""

from recjax.metrics import (
  additive,
  beyond,
  classification,
  fairness,
  impressions,
  ranking,
  regression,
  roc,
  statistics,
  text,
)
from recjax.metrics.additive import Mean, mean, mean_by, merge

__all__ = [
  "Mean",
  "additive",
  "beyond",
  "classification",
  "fairness",
  "impressions",
  "mean",
  "mean_by",
  "merge",
  "ranking",
  "regression",
  "roc",
  "statistics",
  "text",
]
