from .affine import fetch_affine_mnist as fetch_affine_mnist
from .affine import make_affine_digits as make_affine_digits
from .affine import warp_images as warp_images
from .covariances import MatrixSet as MatrixSet
from .covariances import load_digits_covariances as load_digits_covariances
from .mnist import ImageSet as ImageSet
from .mnist import fetch_mnist as fetch_mnist
