"""From item vectors to semantic ids: short codes that are unique, balanced and stable.

learn       start here: vectors -> a quantiser, by any of the methods
kmeans      k-means++ and k-means||, full, mini-batch and balanced, chunked and sharded
rqkmeans    quantisers without training: RQ-KMeans, balanced or not, product quantisation
rqvae       TIGER's RQ-VAE as a `System`, and its k-means initialisation
quantizer   the `Quantizer` that each of them gives: vectors -> codes -> vectors
assign      policies for items that collide; new items beside old ones
artefact    `SemanticIds`: codes, item map and quantiser as one folder; published ids
report      how good ids are: use, collisions, purity, neighbours; a table and a figure
"""
