"""The chart as it is rendered: kinds, rights, values, conflicts, and everything as it was.

Needs helm, the last part promtool, too: LIFL_HELM and LIFL_PROMTOOL, what `make test-chart` left
in build/, or PATH.  Without them tests are skipped; with LIFL_REQUIRE_CHART=1 they fail.
LIFL_SNAPSHOTS=write takes what is rendered now as right.
"""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from lifl.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "lifl"
SNAPSHOTS = Path(__file__).parent / "snapshots"

Object = dict[str, Any]

CASES = {
    "default": "",
    "everything": """
        image: {repository: registry.example/lifl, tag: v2, pullSecrets: [registry]}
        nodes:
          nodeSelector: {lifl.dev/node: "true"}
          tolerations: [{operator: Exists}]
          priorityClassName: system-node-critical
          runDirectory: /var/run/lifl
        operator:
          replicas: 2
          storage: {existingClaim: lifl-models}
          nodeSelector: {a: b}
          tolerations: [{key: control, operator: Exists}]
          priorityClassName: system-cluster-critical
        agent: {arenaMemory: 1.5Gi, processMemory: 256Mi, cpu: 2, proxy: ebpf, maxUnavailable: 10%}
        functions:
          runtime: knative
          priorityClassName: high
          quota: {pods: "100"}
        webhook: {enabled: true}
        metrics:
          podMonitor: {enabled: true, labels: {release: prometheus}}
          rules: {enabled: true, labels: {release: prometheus}}
          dashboard: {enabled: true}
        uninstall: {deleteJobs: false}
    """,
    "cert-manager": """
        functions: {runtime: knative}
        webhook: {enabled: true, certManager: {enabled: true}}
    """,
    "least": """
        fullnameOverride: fl
        crds: {install: false}
        operator: {resources: {}}
        agent: {proxy: unix}
        functions: {namespace: {name: fl-functions, create: false}}
        rbac: {aggregate: false}
        networkPolicies: {enabled: false}
    """,
}


def tool(name: str) -> str:
    """Where a program is, or why this test is not run."""
    places = [os.environ.get(f"LIFL_{name.upper()}"), ROOT / "build" / name, shutil.which(name)]
    for place in places:
        if place and os.access(place, os.X_OK):
            return str(place)
    reason = f"no {name}: make test-chart finds or builds it"
    if os.environ.get("LIFL_REQUIRE_CHART") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def helm(*words: str, values: str = "", fails: bool = False) -> str:
    done = subprocess.run(
        [tool("helm"), *words, "--values=-"],
        input=values,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"KUBECONFIG": "/dev/null"},
    )
    assert bool(done.returncode) is fails, done.stderr
    return done.stderr if fails else done.stdout


def rendered(values: str = "") -> str:
    return helm("template", "lifl", str(CHART), "--namespace=lifl-system", values=values)


def objects(text: str) -> list[Object]:
    return [one for one in YAML(typ="safe").load_all(text) if one]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Name of a case, and what is rendered for it."""
    return request.param, rendered(CASES[request.param])


def pods(found: list[Object]) -> Iterator[tuple[str, Object]]:
    """Specs of all pods that the chart makes, by kind and name."""
    for one in found:
        spec = one.get("spec", {})
        if one["kind"] == "Pod":
            yield f"Pod/{one['metadata']['name']}", spec
        elif "template" in spec:
            yield f"{one['kind']}/{one['metadata']['name']}", spec["template"]["spec"]


# ---------------------------------------------------------------- as it was


def steady(text: str) -> str:
    """Without what differs from one rendering to the next, or is a file of its own."""
    text = re.sub(r"(ca\.crt|tls\.crt|tls\.key|caBundle): [A-Za-z0-9+/=]+", r"\1: (made)", text)
    text = re.sub(r'renew-after: "\d+"', 'renew-after: "(a time)"', text)
    for begin, end, page in (
        (r"  group: fl\.lifl\.dev\n", r"\n---", "fljobs.yaml"),
        (r"  # Alerts of LIFL", r"\n---", "alerts.yaml"),
        (r"    \{\n", r"\n---", "dashboard.json"),
    ):
        text = re.sub(rf"\n{begin}.*?(?={end})", f"\n  (files/{page})", text, flags=re.S)
    return text


def test_it_is_rendered_as_it_was(case: tuple[str, str]) -> None:
    name, text = case
    page = SNAPSHOTS / f"{name}.yaml"
    if os.environ.get("LIFL_SNAPSHOTS") == "write":
        page.parent.mkdir(exist_ok=True)
        page.write_text(steady(text))
    assert steady(text) == page.read_text()


def test_the_definition_of_fljob_is_the_file() -> None:
    wanted = objects((CHART / "files" / "fljobs.yaml").read_text())[0]
    for values, keep in (("", {"helm.sh/resource-policy": "keep"}), ("crds: {keep: false}", None)):
        (found,) = (
            one for one in objects(rendered(values)) if one["kind"] == "CustomResourceDefinition"
        )
        assert found["spec"] == wanted["spec"]
        assert found["metadata"].get("annotations") == keep


def test_lint(case: tuple[str, str]) -> None:
    name, _ = case
    said = helm("lint", str(CHART), "--strict", values=CASES[name])
    assert "0 chart(s) failed" in said
    assert "[WARNING]" not in said


def test_notes_have_the_next_three_commands() -> None:
    said = helm("install", "lifl", str(CHART), "--dry-run=client", "--namespace=lifl-system")
    notes = said.partition("NOTES:")[2]
    assert [line for line in notes.splitlines() if re.match(r"\d\. ", line)].__len__() == 3
    commands = [line.strip() for line in notes.splitlines() if line.startswith("     kubectl")]
    assert commands == [
        "kubectl --namespace lifl-system rollout status daemonset/lifl-agent "
        "daemonset/lifl-gateway",
        "kubectl apply --filename job.yaml",
        "kubectl get fljobs --watch",
    ]


# ---------------------------------------------------------------- what stands in it


def test_no_pod_has_a_right_that_it_does_not_need(case: tuple[str, str]) -> None:
    found = dict(pods(objects(case[1])))
    assert len(found) == 5
    for name, spec in found.items():
        of_pod = spec["securityContext"]
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not spec.keys() & {"hostPID", "hostIPC", "initContainers"}, name
        assert "automountServiceAccountToken" in spec, name
        for container in spec["containers"]:
            right = of_pod | container["securityContext"]
            is_agent = name.endswith("-agent")
            ebpf = case[0] != "least"
            more = {"add": ["BPF", "NET_ADMIN"]} if is_agent and ebpf else {}
            assert right["capabilities"] == {"drop": ["ALL"]} | more, name
            assert right["readOnlyRootFilesystem"] is True
            assert right["allowPrivilegeEscalation"] is False
            assert "privileged" not in right
            assert is_agent or (right["runAsNonRoot"] is True and right["runAsUser"] > 0), name
            assert "requests" in container["resources"] or case[0] == "least"
        paths = [v["hostPath"]["path"] for v in spec.get("volumes", ()) if "hostPath" in v]
        of_node = {"agent": ["run", "bpf"][: 2 if case[0] != "least" else 1], "gateway": ["run"]}
        kind = name.rpartition("-")[2]
        names = [v["name"] for v in spec.get("volumes", ()) if "hostPath" in v]
        assert names == of_node.get(kind, []), name
        assert set(paths) <= {"/run/lifl", "/var/run/lifl", "/sys/fs/bpf"}
        assert spec.get("hostNetwork", False) is (kind == "gateway")


def test_only_those_who_ask_the_api_server_can(case: tuple[str, str]) -> None:
    asks = {
        name.rpartition("-")[2]
        for name, spec in pods(objects(case[1]))
        if spec["automountServiceAccountToken"]
    }
    assert asks == {"operator", "agent", "uninstall"}
    for one in objects(case[1]):
        if one["kind"] == "ServiceAccount":
            assert one["automountServiceAccountToken"] is False, one["metadata"]["name"]


def test_roles_have_no_wildcard_and_lead_somewhere(case: tuple[str, str]) -> None:
    found = objects(case[1])
    roles = {
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]): one["rules"]
        for one in found
        if one["kind"] in ("Role", "ClusterRole")
    }
    accounts = {
        (one["metadata"]["name"], one["metadata"]["namespace"])
        for one in found
        if one["kind"] == "ServiceAccount"
    }
    for (kind, _, _), rules in roles.items():
        for rule in rules:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            if "secrets" in rule["resources"]:
                assert not {"list", "watch"} & set(rule["verbs"])
                may_read = {"get", "patch", "update"} & set(rule["verbs"])
                assert not may_read or kind == "Role", "Secrets of other namespaces"
    for one in found:
        if one["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            where = one["metadata"].get("namespace")
            assert (one["roleRef"]["kind"], where, one["roleRef"]["name"]) in roles
            for subject in one["subjects"]:
                assert (subject["name"], subject["namespace"]) in accounts


def test_everything_has_labels_and_a_namespace(case: tuple[str, str]) -> None:
    everywhere = {
        "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition",
        "MutatingWebhookConfiguration", "Namespace",
    }  # fmt: skip
    seen = set()
    for one in objects(case[1]):
        about = one["metadata"]
        assert about["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        assert about["labels"]["app.kubernetes.io/instance"] == "lifl"
        assert ("namespace" in about) is (one["kind"] not in everywhere), about["name"]
        key = (one["kind"], about.get("namespace"), about["name"])
        assert key not in seen
        seen.add(key)


def test_templates_are_named_for_what_they_hold() -> None:
    pages: dict[str, set[str]] = {}
    for case in ("default", "everything"):
        source = re.split(r"^# Source: lifl/templates/", rendered(CASES[case]), flags=re.M)
        for part in source[1:]:
            name, _, text = part.partition("\n")
            kinds = {one["kind"].lower() for one in objects(text.removesuffix("---\n"))}
            pages.setdefault(name, set()).update(kinds)
    for name, kinds in pages.items():
        assert Path(name).stem.rpartition("-")[2] in kinds, name


def test_memory_of_an_agent_is_that_of_the_arenas_and_its_own() -> None:
    for values, bytes_ in (
        ("", (1 << 30) + (128 << 20)),
        ("agent: {arenaMemory: 1.5Gi}", (3 << 29) + (128 << 20)),
        ("agent: {arenaMemory: 1.025G, processMemory: 0.0625Gi}", None),
        ("agent: {arenaMemory: 2147483648, processMemory: 0.5Gi}", (1 << 31) + (1 << 29)),
        ("agent: {arenaMemory: 1.05G, processMemory: 64Mi}", 1_050_000_000 + (64 << 20)),
    ):
        if bytes_ is None:
            assert "processMemory" in helm("template", str(CHART), values=values, fails=True)
            continue
        agent = dict(pods(objects(rendered(values))))["DaemonSet/lifl-agent"]["containers"][0]
        resources = agent["resources"]
        assert int(resources["limits"]["memory"]) == bytes_
        assert resources["limits"]["memory"] == resources["requests"]["memory"]


# ---------------------------------------------------------------- values


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """Paths of values that are set; maps of the user's own are leaves."""
    if isinstance(value, dict) and value and "requests" not in value:
        for name, inner in value.items():
            yield from leaves(inner, f"{path}.{name}".lstrip("."))
    else:
        yield path


VALUES = YAML(typ="safe").load((CHART / "values.yaml").read_text())


def test_every_value_is_used() -> None:
    text = "".join(
        page.read_text() for page in (CHART / "templates").rglob("*") if page.is_file()
    )
    for path in leaves(VALUES):
        path = path.removesuffix(".grafana_dashboard")
        parent = path.rpartition(".")[0]
        used = re.search(rf"(\.Values|\$v)\.{re.escape(path)}\b", text)
        through = parent == "webhook.certManager" and f"$manager.{path.rpartition('.')[2]}" in text
        assert used or through, path


def test_every_value_is_explained_with_an_example() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    comment: list[str] = []
    for line in lines:
        text = line.strip()
        if text.startswith("#"):
            comment.append(text)
        elif re.match(r"(?!grafana_dashboard|requests)[A-Za-z]+:", text):
            is_group = re.fullmatch(r"[A-Za-z]+:(\s+#.*)?", text) and "resources" not in text
            if not is_group:
                assert any("Example" in one for one in comment), text
            comment = []
        elif not text:
            comment = []


def test_the_schema_has_the_values_and_no_others() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def known(part: Object, path: str = "") -> Iterator[str]:
        if "properties" in part and "requests" not in part["properties"]:
            assert part["additionalProperties"] is False, path
            for name, inner in part["properties"].items():
                yield from known(inner, f"{path}.{name}".lstrip("."))
        else:
            yield path

    listed = {path for path in known(schema) if not path.startswith(("global", "$"))}
    listed = {re.sub(r"(issuerRef)\..*", r"\1", path) for path in listed}
    have = {path.removesuffix(".grafana_dashboard") for path in leaves(VALUES)}
    assert listed == have


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ("image: {tag: a, digest: 'sha256:%s'}" % ("0" * 64), "a digest says all, leave out"),
        ("functions: {namespace: {name: lifl-system}}", "the release's own namespace"),
        (
            "{functions: {runtime: knative}, webhook: {enabled: false}}",
            "set webhook.enabled: true, or functions.runtime: deployment",
        ),
        ("webhook: {certManager: {issuerRef: {name: a}}}", "webhook.certManager.enabled is false"),
        ("{crds: {keep: false}, uninstall: {deleteJobs: false}}", "every FLJob with it"),
        ("agent: {arenaMemory: 1k}", "a node needs at least 1Mi for its jobs"),
        ("agent: {processMemory: 1Mi}", "an agent needs at least 64Mi beside the arenas"),
        ("agent: {arenaMemory: 2GB}", "arenaMemory"),
        ("agent: {arenaMemoy: 2Gi}", "arenaMemoy"),
        ("gateway: {port: 80}", "port"),
        ("gateway: {port: 7711}", "gateway.port and gateway.bulkPort are both 7711"),
        ("operator: {logLevel: chatty}", "logLevel"),
        ("functions: {runtime: docker}", "runtime"),
        ("operator: {replicas: 0}", "replicas"),
        ("nodes: {runDirectory: run}", "runDirectory"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_with_a_sentence(values: str, sentence: str) -> None:
    said = helm(
        "template", "lifl", str(CHART), "--namespace=lifl-system", values=values, fails=True
    )
    assert sentence in said


# ---------------------------------------------------------------- metrics

SERVED = {
    metric.shown_as + suffix: metric
    for metric in METRICS
    for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}
OF_SCRAPES = {"job", "pod", "node", "namespace", "instance", "component", "le", "fljob"}


def queries() -> Iterator[tuple[str, str]]:
    """Every query of the dashboard and of the alerts, with where it is from."""
    for panel in json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    alerts = YAML(typ="safe").load((CHART / "files" / "alerts.yaml").read_text())
    for rule in alerts["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]


def test_the_dashboard_is_that_of_the_script() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "dashboard.py"))
    assert (CHART / "files" / "dashboard.json").read_text() == script["text"]()


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_queries_ask_for_metrics_that_there_are(where: str, query: str) -> None:
    names = re.findall(r"\blifl_\w+", query)
    assert names or query.startswith("up{")
    assert set(names) <= SERVED.keys()
    known = OF_SCRAPES.union(*(SERVED[name].labels for name in names))
    asked = set(re.findall(r"(\w+)(?:=~|!=|!~|=)\"", query))
    asked |= {
        label.strip()
        for group in re.findall(r"by \(([^)]*)\)", query)
        for label in group.split(",")
    }
    assert asked <= known


def test_alerts_say_what_to_do() -> None:
    alerts = YAML(typ="safe").load((CHART / "files" / "alerts.yaml").read_text())
    for rule in alerts["groups"][0]["rules"]:
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["labels"]["severity"] in ("info", "warning", "critical")


def promtool(*words: str) -> str:
    done = subprocess.run([tool("promtool"), *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_alerts_fire_when_they_are_to() -> None:
    page = Path(__file__).parent / "alerts.yaml"
    promtool("test", "rules", str(page))
    tried = YAML(typ="safe").load(page.read_text())["tests"]
    fire = {one["alertname"] for test in tried for one in test["alert_rule_test"]
            if one["exp_alerts"]}  # fmt: skip
    quiet = {one["alertname"] for one in tried[0]["alert_rule_test"]}
    assert fire == quiet == {where for where, _ in queries() if where.startswith("Lifl")}


def test_prometheus_reads_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"lifl:query:{number}",
         "expr": query.replace("$__rate_interval", "1m").replace("$fljob", ".*")}
        for number, (_, query) in enumerate(queries())
    ]  # fmt: skip
    page = tmp_path / "rules.yaml"
    text = io.StringIO()
    YAML().dump({"groups": [{"name": "queries", "rules": rules}]}, text)
    page.write_text(text.getvalue())
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(page))
