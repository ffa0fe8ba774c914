from .covariance import augmented_covariance as augmented_covariance
from .covariance import augmented_covariance_grid as augmented_covariance_grid
from .moments import block_autocovariances as block_autocovariances
from .moments import delay_embed as delay_embed
from .moments import yule_walker as yule_walker
from .selection import DelayEmbedding as DelayEmbedding
from .transformer import AugmentedCovariances as AugmentedCovariances
