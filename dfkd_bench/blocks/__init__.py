"""What several methods share: BN statistics, image priors, generators, the contrastive bank, distillation losses."""
