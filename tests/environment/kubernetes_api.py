"""A pretended Kubernetes API server for Spark's driver, which starts executors as processes of this machine."""

import json
import os
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Cluster(ThreadingHTTPServer):
    """As much of the Kubernetes API as Spark's driver needs; a pod is a process of this machine.

    Attributes:
        pods: by name, as Spark described them.
        processes: by the pod's name.
        files: of config maps that a submission made, by name.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Api)
        self.folder = folder
        self.pods: dict[str, dict[str, Any]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.files: dict[str, str] = {}

    def start_pod(self, pod: dict[str, Any]) -> None:
        """Record a pod; run the image's entry point with an executor's arguments and variables."""
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]
        self.pods[name] = pod
        if container["args"] != ["executor"]:
            return
        fields = {"status.podIP": "127.0.0.1", "metadata.name": name}
        variables = {}
        for each in container["env"]:
            source = each.get("valueFrom")
            variables[each["name"]] = fields[source["fieldRef"]["fieldPath"]] if source else each.get("value", "")
        variables |= {"PATH": os.environ["PATH"], "HOME": str(self.folder), "SPARK_LOCAL_DIRS": str(self.folder)}
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [ROOT / "environment/docker/entrypoint.sh", *container["args"]],
                cwd=self.folder, env=variables, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def state_of(self, name: str) -> dict[str, Any]:
        """A pod with its phase."""
        running = name not in self.processes or self.processes[name].poll() is None
        status = {"phase": "Running" if running else "Succeeded", "podIP": "127.0.0.1"}
        ready = [{"type": "Ready", "status": "True" if running else "False"}]
        return {**self.pods[name], "status": {**status, "conditions": ready}}


class Api(BaseHTTPRequestHandler):
    """Answers for the resources below /api/v1/namespaces/mamdr."""

    server: Cluster

    def respond(self, body: dict[str, Any], code: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def read_body(self) -> dict[str, Any]:
        size = int(self.headers.get("Content-Length") or 0)
        return dict(json.loads(self.rfile.read(size))) if size else {}

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        kind, _, name = path.removeprefix("/api/v1/namespaces/mamdr/").partition("/")
        if kind == "pods" and name in self.server.pods:
            self.respond(self.server.state_of(name))
        elif kind == "pods" and not name:
            items = [self.server.state_of(each) for each in self.server.processes]
            self.respond({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": items})
        elif not name:
            self.respond({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": []})
        else:
            self.respond({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 404}, 404)

    def do_POST(self) -> None:
        made = self.read_body()
        if made["kind"] == "Pod":
            self.server.start_pod(made)
        self.respond({**made, "metadata": {**made["metadata"], "uid": "1", "resourceVersion": "1"}}, 201)

    def do_PATCH(self) -> None:
        changes = self.read_body()
        name = self.path.partition("?")[0].rpartition("/")[2]
        if changes.get("kind") == "ConfigMap":
            self.server.files |= changes["data"]
        self.respond(self.server.state_of(name) if name in self.server.pods else changes)

    def do_DELETE(self) -> None:
        self.read_body()
        self.respond({"apiVersion": "v1", "kind": "Status", "status": "Success"})

    def log_message(self, *_: object) -> None:
        pass
