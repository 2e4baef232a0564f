"""One checkpoint through every door: the same tensors, from one download."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from conftest import network
from servers import ReleaseServer, clean_environment, run_python

from bcos_zoo.weights import manifest, state_dicts

CODE = """
import sys, timm, torch, bcos_zoo
name, repo, folder = sys.argv[1:]
architecture, _, tag = name.partition(".")
networks = [
    torch.hub.load(repo, architecture, source="local", pretrained=True, tag=tag),
    torch.hub.load(repo, "classifier", name, source="local").model,
    timm.create_model(name, pretrained=True),
    bcos_zoo.create_model(name, pretrained=True),
    bcos_zoo.load(name).model,
]
bcos_zoo.export(name, folder)
exported = "local-dir:" + folder
networks += [timm.create_model(exported, pretrained=True), bcos_zoo.load(exported).model]
first, *others = [network.state_dict() for network in networks]
for other in others:
    assert list(other) == list(first)
    assert all(torch.equal(other[key], value) for key, value in first.items())
x = torch.rand(1, 3, 32, 32)
answers = [network.eval()(x) for network in networks]
assert all(torch.equal(answer, answers[0]) for answer in answers)
torch.save(first, folder + "/first.pt")
print(len(networks))
"""


def test_every_door_gives_the_same_tensors_from_one_download(tmp_path: Path) -> None:
    state = network("bcos_resnet20").state_dict()
    state_dicts.save(state, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    document = json.loads((manifest.PACKAGE.parent / manifest.FILENAME).read_text())
    record = document["checkpoints"]["bcos_resnet20.cifar10"]
    with ReleaseServer({"w.safetensors": content}) as server:
        [file] = record["files"]
        file |= {"where": {"url": server.url("w.safetensors")}, "bytes": len(content)}
        file |= {"sha256": hashlib.sha256(content).hexdigest()}
        document["checkpoints"] = {"bcos_resnet20.mine": record}
        (tmp_path / "manifest.json").write_text(json.dumps(document))
        environment = clean_environment(tmp_path, **{manifest.MORE: str(tmp_path / "manifest.json")})
        repo, folder = str(manifest.PACKAGE.parent), str(tmp_path / "exported")
        assert run_python(CODE, "bcos_resnet20.mine", repo, folder, env=environment).strip() == "7"
        assert len(server.requests) == 1
    got = state_dicts.read(tmp_path / "exported" / "first.pt")
    assert all((got[key] == value).all() for key, value in state.items())
