from .axes import estimate_axes as estimate_axes
from .grouping import group as group
from .grouping import group_rows as group_rows
from .grouping import three_interpolate as three_interpolate
from .ragged import pad_clouds as pad_clouds
from .sampling import farthest_point_sample as farthest_point_sample
from .search import ball_query as ball_query
from .search import knn as knn
