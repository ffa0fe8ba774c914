from .demo import DEMO_TASKS as DEMO_TASKS
from .demo import load_eeg_demo as load_eeg_demo
from .epochs import MOTOR_CHANNELS as MOTOR_CHANNELS
from .epochs import EEGEpochs as EEGEpochs
from .recordings import fetch_mamem as fetch_mamem
from .recordings import fetch_physionet_mi as fetch_physionet_mi
from .simulation import MotorImageryTruth as MotorImageryTruth
from .simulation import make_motor_imagery_eeg as make_motor_imagery_eeg
