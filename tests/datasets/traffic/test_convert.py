"""The METR-LA week from files as its publishers write them."""

import numpy as np
import pytest

from manifoldkit.datasets.traffic.convert import convert_metr_la_week


def test_conversion_of_the_publishers_files(tmp_path):
    (tmp_path / "los_speed.csv").write_text("7,9,8\n60,61.5,62\n63,64,65\n")
    (tmp_path / "distances.csv").write_text(
        "from,to,cost\n7,7,0\n7,9,100\n9,7,300\n8,5,1\n8,8,0\n9,9,0\n"
    )
    (tmp_path / "places.csv").write_text(
        "index,sensor_id,latitude,longitude\n0,9,34.5,-118\n1,7,34.1,-117\n2,8,34,-116\n"
    )
    files = [tmp_path / f"{k}.csv" for k in ("los_speed", "distances", "places")]
    arrays = convert_metr_la_week(*files)
    assert arrays["values"][..., 0].tolist() == [[60, 61.5, 62], [63, 64, 65]]
    sigma = np.std([0, 100, 300, 0, 0])
    assert arrays["adjacency"][0, 1] == pytest.approx(np.exp(-((100 / sigma) ** 2)))
    assert arrays["adjacency"][1, 0] == 0  # below the cut
    assert arrays["lat"].tolist() == [34.1, 34.5, 34.0]
    files[2].write_text("index,sensor_id,latitude,longitude\n0,9,34.5,-118\n")
    with pytest.raises(ValueError, match=r"no place of the sensors \[7, 8\]"):
        convert_metr_la_week(*files)
