from .baselines import evaluate_baselines as evaluate_baselines
from .forecaster import TrafficForecaster as TrafficForecaster
from .graph_wavenet import GraphWaveNet as GraphWaveNet
from .metrics import ForecastReport as ForecastReport
from .stgcn import STGCN as STGCN
