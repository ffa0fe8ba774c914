from .particles import NBodyData as NBodyData
from .particles import ParticleData as ParticleData
from .particles import make_n_body as make_n_body
from .particles import simulate_particles as simulate_particles
from .pedestrians import PedestrianWindows as PedestrianWindows
from .pedestrians import fetch_eth_ucy as fetch_eth_ucy
from .pedestrians import load_eth_ucy as load_eth_ucy
