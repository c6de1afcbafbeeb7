"""docs/serving.md: its requests, as they stand there, by curl."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mixbct.gallery import Gallery

PAGE = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_requests_of_the_page(serve, made, tmp_path):
    (tmp_path / "query.jpg").write_bytes(made.image("class1/2.png"))
    np.array([0.1, 0.2, 0.3], "<f4").tofile(tmp_path / "query.f32")
    edge = made.edge.model_dump(mode="json")
    (tmp_path / "switch.json").write_text(json.dumps({"model": "new", "edges": [edge]}))
    images = re.findall(r"^curl.*query\.jpg.*$", PAGE, re.MULTILINE)
    vectors = re.findall(r"^curl.*contract=encoder.*$", PAGE, re.MULTILINE)
    switches = re.findall(r"^curl.*/v1/upgrade/.*$", PAGE, re.MULTILINE)
    rest = re.findall(r"^curl.*(?:key=person-17|-X DELETE|/v1/status'$).*$", PAGE, re.MULTILINE)
    assert [len(each) for each in (images, vectors, switches, rest)] == [2, 2, 3, 3]

    def asked(url, line):
        line = line.replace("http://127.0.0.1:8000", url)
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr)
        answer = json.loads(done.stdout)
        assert "detail" not in answer, (line, answer)
        return answer

    calibrated = made.edge.calibrations["new/new"].least
    assert calibrated > 1e-3  # so few pairs do not support what the page asks for
    with Gallery.create(tmp_path / "one", made.old.contract, made.models / "old") as gallery:
        made.fill(gallery)
        url = serve(gallery)
        found = [asked(url, line) for line in images]
        assert found[0]["queries"][0]["hits"][0]["key"] == "class1/2.png"
        assert found[1]["added"] == 1
        key, delete, status = rest
        line = key.replace("person-17", "person-18").replace("&far=1e-3", "")
        assert asked(url, line)["queries"][0]["hits"][0]["score"] == pytest.approx(1, abs=1e-4)
        assert asked(url, delete)["removed"] == 1
        assert asked(url, status)["gallery"]["rows"] == 12
        planned, applied, back = (asked(url, line) for line in switches)
        assert planned["query_model"] == applied["query_model"] == back["before"]
    encoder = made.old.contract.model_copy(update={"name": "encoder", "dim": 3})
    with Gallery.create(tmp_path / "two", encoder) as gallery:
        gallery.enrol(["a"], [None], np.ones((1, 3), np.float32), encoder)
        url = serve(gallery)
        for line in vectors:
            assert asked(url, line)["queries"][0]["hits"][0]["key"] == "a"
