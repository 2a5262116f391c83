"""The controller's own rights, from its manifest, on a test's API server."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from controller.clients.api import Cluster
from controller.clients.kinds import NAMESPACE

from .apiserver import ApiServer

ROLES = Path(__file__).parents[2] / "deploy" / "controller" / "210-roles.yaml"
SYSTEM = "lifl-system"
CONTROLLER = f"system:serviceaccount:{SYSTEM}:controller"


def controller_login(apiserver: ApiServer, admin: Cluster) -> Path:
    """Give the controller's service account what the manifest says; return its kubeconfig."""
    if admin.find(NAMESPACE, SYSTEM) is None:
        admin.create(NAMESPACE, {"metadata": {"name": SYSTEM}})
    roles = [raw for raw in yaml.safe_load_all(ROLES.read_text()) if "Role" in raw["kind"]]
    command = [f"{apiserver.assets}/kubectl", f"--kubeconfig={apiserver.admin}", "apply", "-f", "-"]
    subprocess.run(command, check=True, input=yaml.dump_all(roles).encode(), capture_output=True)
    return apiserver.kubeconfig(CONTROLLER, ["system:serviceaccounts", "system:authenticated"])
