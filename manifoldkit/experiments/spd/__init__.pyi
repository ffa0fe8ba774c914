from . import augmented_covariance as augmented_covariance
from . import eeg_demo as eeg_demo
from . import eeg_transfer as eeg_transfer
from . import ill_conditioned as ill_conditioned
from . import moabb_evaluation as moabb_evaluation
from . import spd_networks as spd_networks
