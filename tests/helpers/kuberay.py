"""The fields of KubeRay's RayJob (`ray.io/v1`) as a JSON schema, pod templates left open.

Written from the names, types and limits that KubeRay's API reference gives (ray-project/kuberay,
`ray-operator/apis/ray/v1`, as of v1.3; later versions only add fields). The definition that a
cluster installs is 1 MB, nearly all of it Kubernetes' own pods, which `make test-deploy` checks.
"""

from typing import Any


def _fields(required: tuple[str, ...] = (), **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_SECONDS = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}
_NUMBER = {"type": "number", "minimum": 0}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_POD = {"type": "object", "required": ["spec"]}
_OF_KUBERNETES = {"type": ["object", "array", "string"]}
_MANAGER = {"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]}

_AUTOSCALER = _fields(
    resources=_OF_KUBERNETES,
    image=_TEXT,
    imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    securityContext=_OF_KUBERNETES,
    idleTimeoutSeconds=_COUNT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    env=_OF_KUBERNETES,
    envFrom=_OF_KUBERNETES,
    volumeMounts=_OF_KUBERNETES,
)
_HEAD = _fields(
    ("template", "rayStartParams"),
    template=_POD,
    headService=_OF_KUBERNETES,
    enableIngress=_FLAG,
    rayStartParams=_TEXTS,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]},
)
_WORKERS = _fields(
    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    suspend=_FLAG,
    groupName=_TEXT,
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    idleTimeoutSeconds=_COUNT,
    rayStartParams=_TEXTS,
    template=_POD,
    scaleStrategy=_fields(workersToDelete={"type": "array", "items": _TEXT}),
    numOfHosts=_COUNT,
)
_CLUSTER = _fields(
    ("headGroupSpec",),
    suspend=_FLAG,
    managedBy=_MANAGER,
    autoscalerOptions=_AUTOSCALER,
    headServiceAnnotations=_TEXTS,
    enableInTreeAutoscaling=_FLAG,
    gcsFaultToleranceOptions=_OF_KUBERNETES,
    headGroupSpec=_HEAD,
    rayVersion=_TEXT,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
)
_SPEC = _fields(
    activeDeadlineSeconds=_SECONDS,
    backoffLimit=_COUNT,
    rayClusterSpec=_CLUSTER,
    submitterPodTemplate=_POD,
    metadata=_TEXTS,
    clusterSelector=_TEXTS,
    submitterConfig=_fields(backoffLimit=_COUNT),
    managedBy=_MANAGER,
    deletionPolicy={"enum": ["DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone"]},
    entrypoint=_TEXT,
    runtimeEnvYAML=_TEXT,
    jobId=_TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    entrypointResources=_TEXT,
    entrypointNumCpus=_NUMBER,
    entrypointNumGpus=_NUMBER,
    ttlSecondsAfterFinished=_COUNT,
    shutdownAfterJobFinishes=_FLAG,
    suspend=_FLAG,
)
RAY_JOB = _fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata={"type": "object", "required": ["name"]},
    spec=_SPEC,
)
