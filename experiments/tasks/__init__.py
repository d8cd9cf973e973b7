"""What RoBERTa-PreLayerNorm is trained to do: masked words, labels of words, labels of texts."""
