"""The files for clusters, as far as one machine can check them: without a scheduler.

What is not: that SLURM sends SIGTERM and queues a job again, that `mpirun` sets the variables, and
that Kubernetes accepts the manifest, names its pods so and resolves their names.
"""

import os
import re
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml
from jax._src.clusters import k8s_cluster
from mesh_processes import SOURCE, environment

CLUSTER = SOURCE / "scripts" / "cluster"
BATCH = CLUSTER / "jaxnet.sbatch"
PORTS = range(65535 - 2**12 + 1, 65536)  # JAX derives one of these from the job's id

MANIFEST = {
    document["kind"]: document
    for document in yaml.safe_load_all((CLUSTER / "jaxnet.yaml").read_text())
}
JOB = MANIFEST["Job"]["spec"]
POD = JOB["template"]["spec"]

GROUP = """
import jax
from jaxnet.engine import processes
processes.start()
print("said", processes.gather_ints([jax.process_index(), jax.process_count(), 7]).tolist())
"""


def free_port():
    """A port that is free and that JAX could choose."""
    for port in PORTS:
        with socket.socket() as listener:
            try:
                listener.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def slurm(rank):
    """What `srun` sets, as far as JAX reads it."""
    return {
        "SLURM_JOB_ID": str(2**12 * 5 + free_port() - PORTS[0]),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
    }


def open_mpi(rank):
    """What `mpirun` of Open MPI 4 sets, as far as JAX reads it."""
    job = 2**12 * (2**12 * 5 + free_port() - PORTS[0])
    return {
        "OMPI_MCA_orte_hnp_uri": f"{job}.0;tcp://127.0.0.1,10.148.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
    }


@pytest.mark.parametrize("cluster", [slurm, open_mpi])
def test_two_processes_find_each_other(cluster):
    variables = [cluster(rank) for rank in range(2)]  # before one of them listens
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", GROUP],
            env=environment(1) | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in variables
    ]
    try:
        for process in processes:
            said, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
            assert said.splitlines()[-1] == "said [[0, 2, 7], [1, 2, 7]]"
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def command(folder, name, text):
    """Put a command for a shell to find into a folder."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def resumed(tmp_path, resumes):
    """The folder of a run, there already or not."""
    run = tmp_path / "a run"
    if resumes:
        run.mkdir()
        (run / "config.json").touch()
    return run


@pytest.mark.parametrize("resumes", [False, True])
@pytest.mark.parametrize("code", [0, 2, 143])
def test_the_batch_script_trains_or_resumes_and_is_queued_again_once_stopped(
    tmp_path, resumes, code
):
    run = resumed(tmp_path, resumes)
    found = command(tmp_path / "bin", "srun", f'printf "%s\\n" "$@"; exit {code}')
    found |= command(tmp_path / "bin", "scontrol", 'echo "scontrol $*"')
    done = subprocess.run(
        ["bash", str(BATCH), "--data", "a b.csv"],
        env=os.environ | found | {"RUN": str(run), "SLURM_JOB_ID": "17"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (code, "")
    said = done.stdout.splitlines()
    options = ["--resume", str(run)] if resumes else ["--out", str(run), "--data", "a b.csv"]
    program = ["jaxnet", "train", "--distributed", "--devices", "all", *options]
    at = said.index("jaxnet")
    assert said[at : at + len(program)] == program
    assert said[at + len(program) :] == (["scontrol requeue 17"] if code == 143 else [])


def test_the_batch_script_asks_slurm_for_what_jax_needs():
    assert subprocess.run(["bash", "-n", str(BATCH)]).returncode == 0
    text = BATCH.read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.M))
    assert len(options) == text.count("#SBATCH")
    # SLURM reads none behind the first command
    assert text.rindex("#SBATCH") < text.index("set -euo")
    assert options["ntasks-per-node"] == options["gpus-per-node"]  # a process for each
    assert "gpus-per-task" not in options  # would hide those of the others, see README.md
    assert options["signal"] == "TERM@60"  # to the processes: "B:" would be to the script
    assert {"requeue", "time"} <= set(options)
    assert options["open-mode"] == "append"  # or a requeued job would empty its output


@pytest.mark.parametrize("resumes", [False, True])
def test_a_pod_trains_or_resumes(tmp_path, resumes):
    run = resumed(tmp_path, resumes)
    (container,) = POD["containers"]
    found = command(tmp_path / "bin", "jaxnet", 'printf "%s\\n" "$@"')
    done = subprocess.run(
        [*container["command"], *container["args"]],
        env=os.environ | found | {"RUN": str(run)},
        capture_output=True,
        text=True,
        check=True,
    )
    options = ["--resume", str(run)] if resumes else ["--out", str(run), *container["args"]]
    assert done.stdout.splitlines() == ["train", "--distributed", "--devices", "all", *options]


def test_the_run_and_the_table_of_a_pod_are_on_the_shared_volume():
    (container,), (volume,) = POD["containers"], POD["volumes"]
    (mount,) = container["volumeMounts"]
    assert mount["name"] == volume["name"]
    assert "persistentVolumeClaim" in volume
    (run,) = (own["value"] for own in container["env"] if own["name"] == "RUN")
    table = container["args"][container["args"].index("--data") + 1]
    assert all(Path(path).is_relative_to(mount["mountPath"]) for path in (run, table))


def test_a_pod_that_was_moved_or_stopped_is_made_again_and_not_counted():
    assert POD["restartPolicy"] == "Never"  # which a policy for failures asks for
    moved, stopped = JOB["podFailurePolicy"]["rules"]
    assert (moved["action"], stopped["action"]) == ("Ignore", "Ignore")
    assert moved["onPodConditions"] == [{"type": "DisruptionTarget"}]
    assert stopped["onExitCodes"] == {"containerName": "jaxnet", "operator": "In", "values": [143]}
    assert [container["name"] for container in POD["containers"]] == ["jaxnet"]


class Refused(Exception):
    """What the API says where an account has no right."""

    status, reason = 403, "Forbidden"


def objects(tree):
    """Nested dictionaries as objects with attributes; labels and selectors stay dictionaries."""
    if isinstance(tree, list):
        return [objects(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    plain = ("labels", "selector")
    return types.SimpleNamespace(
        **{key: value if key in plain else objects(value) for key, value in tree.items()}
    )


class Api:
    """Both APIs that JAX asks, for the pods, the Job and what the account may read."""

    def __init__(self, manifest):
        self.manifest, job = manifest, manifest["Job"]
        self.labels = {"job-name": job["metadata"]["name"]}  # as the Job's controller does

    def allow(self, group, resource, verb):
        rules = self.manifest["Role"]["rules"]
        if not any(
            group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]
            for rule in rules
        ):
            raise Refused

    def list_namespaced_pod(self, namespace, field_selector):
        self.allow("", "pods", "list")
        job = self.manifest["Job"]
        pod = {
            "metadata": {
                "name": "jaxnet-1-x7x7x",
                "labels": self.labels,
                "owner_references": [{"controller": True, "kind": "Job"}],
            },
            "spec": {"subdomain": job["spec"]["template"]["spec"].get("subdomain")},
        }
        return objects({"items": [pod]})

    def list_namespaced_service(self, namespace):
        self.allow("", "services", "list")

    def read_namespaced_job(self, name, namespace):
        self.allow("batch", "jobs", "get")
        job = self.manifest["Job"]
        assert name == job["metadata"]["name"]
        metadata = {"labels": None} | job["metadata"]
        return objects({"metadata": metadata, "spec": job["spec"]})


@pytest.fixture
def cluster(monkeypatch):
    """cluster(manifest): JAX's detection in pod 1, in a Kubernetes that answers from `Api`."""
    cached = ("_namespace", "_pod", "_job", "_headless_svc", "_controller")

    def forget():
        for name in cached:
            getattr(k8s_cluster.K8sCluster, name).__func__.cache_clear()

    def made(manifest):
        api = Api(manifest)
        client = types.SimpleNamespace(
            CoreV1Api=lambda: api,
            BatchV1Api=lambda: api,
            exceptions=types.SimpleNamespace(ApiException=Refused),
        )
        config = types.SimpleNamespace(load_incluster_config=lambda: None)
        module = types.SimpleNamespace(client=client, config=config)
        monkeypatch.setitem(sys.modules, "kubernetes", module)
        forget()
        return k8s_cluster.K8sCluster

    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("HOSTNAME", "localhost")  # of the pod, which must have an address
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")  # as completionMode: Indexed has it
    monkeypatch.setattr(
        k8s_cluster, "open", lambda path: types.SimpleNamespace(read=lambda: "here"), raising=False
    )
    yield made
    forget()


def test_jax_finds_the_processes_in_a_kubernetes_that_answers_from_the_manifest(cluster):
    found = cluster(MANIFEST)
    assert found.is_env_present()
    address = found.get_coordinator_address(timeout_secs=None, override_coordinator_port=None)
    job, service = MANIFEST["Job"]["metadata"]["name"], MANIFEST["Service"]["metadata"]["name"]
    assert address == f"{job}-0.{service}:55527"
    assert (found.get_process_id(), found.get_process_count()) == (1, JOB["parallelism"])
    assert found.get_local_process_id() is None  # a pod has all of its GPUs


def test_the_pods_have_numbers_and_names():
    """`JOB_COMPLETION_INDEX` comes with `Indexed`; names with a headless Service of the pods."""
    assert JOB["completionMode"] == "Indexed"
    assert JOB["completions"] == JOB["parallelism"]
    service = MANIFEST["Service"]
    assert POD["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"job-name": MANIFEST["Job"]["metadata"]["name"]}


def test_the_account_of_the_pods_has_the_rights_of_the_role():
    binding, account = MANIFEST["RoleBinding"], MANIFEST["ServiceAccount"]["metadata"]["name"]
    assert POD["serviceAccountName"] == account
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert binding["roleRef"]["name"] == MANIFEST["Role"]["metadata"]["name"]


def without(kind, change):
    """The manifest with one document changed."""
    document = yaml.safe_load(yaml.safe_dump(MANIFEST[kind]))
    change(document)
    return MANIFEST | {kind: document}


NEEDED = {
    "the Role's right to list pods": ("Role", lambda d: d["rules"].pop(0), RuntimeError),
    "the Role's right to read jobs": ("Role", lambda d: d["rules"].pop(1), RuntimeError),
    "a label of the Job": ("Job", lambda d: d["metadata"].pop("labels"), TypeError),
    "subdomain": ("Job", lambda d: d["spec"]["template"]["spec"].pop("subdomain"), RuntimeError),
}


@pytest.mark.parametrize("needed", NEEDED)
def test_without_a_line_of_the_manifest_jax_does_not_find_them(cluster, needed):
    kind, change, error = NEEDED[needed]
    found = cluster(without(kind, change))
    assert found.is_env_present()
    with pytest.raises(error):
        found.get_coordinator_address(timeout_secs=None, override_coordinator_port=None)
