"""Traffic forecasting on a sensor graph: backbones, baselines, metrics, estimator."""
