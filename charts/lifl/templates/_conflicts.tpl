{{/* Values that do not go together, each with what to do.  Included by NOTES.txt, so that it is
     looked at once; what needs a cluster is asked only where there is one. */}}

{{- define "lifl.conflicts" -}}
{{- $v := .Values -}}
{{- if and $v.image.tag $v.image.digest -}}
{{- fail (printf "image.tag is %q and image.digest is %q: a digest says all, leave out the tag" $v.image.tag $v.image.digest) -}}
{{- end -}}
{{- if eq $v.functions.namespace.name .Release.Namespace -}}
{{- fail (printf "functions.namespace.name is %q, the release's own namespace: functions are cut off from every network there; give them another, such as lifl-functions" .Release.Namespace) -}}
{{- end -}}
{{- if and (eq $v.functions.runtime "knative") (not $v.webhook.enabled) -}}
{{- fail "functions.runtime is knative, but webhook.enabled is false: without the webhook functions have a queue-proxy and no socket; set webhook.enabled: true, or functions.runtime: deployment" -}}
{{- end -}}
{{- if eq (int $v.gateway.port) (int $v.gateway.bulkPort) -}}
{{- fail (printf "gateway.port and gateway.bulkPort are both %v: give one of them another" $v.gateway.port) -}}
{{- end -}}
{{- if and $v.webhook.certManager.issuerRef (not $v.webhook.certManager.enabled) -}}
{{- fail "webhook.certManager.issuerRef is given, but webhook.certManager.enabled is false: set it to true, or leave out the issuer" -}}
{{- end -}}
{{- if and $v.crds.install (not $v.crds.keep) (not $v.uninstall.deleteJobs) -}}
{{- fail "crds.keep is false and uninstall.deleteJobs is false: uninstalling would take the definition away and every FLJob with it; set crds.keep: true, or uninstall.deleteJobs: true" -}}
{{- end -}}
{{- if and $v.operator.storage.existingClaim (gt (int $v.operator.replicas) 1) (include "lifl.isLive" .) -}}
{{- $modes := dig "spec" "accessModes" (list "ReadWriteMany") (lookup "v1" "PersistentVolumeClaim" .Release.Namespace $v.operator.storage.existingClaim) -}}
{{- if not (has "ReadWriteMany" $modes) -}}
{{- fail (printf "operator.replicas is %v, but the claim %s can be mounted by one node at a time (%s): use a claim with ReadWriteMany, or operator.replicas: 1" $v.operator.replicas $v.operator.storage.existingClaim (join ", " $modes)) -}}
{{- end -}}
{{- end -}}
{{- if lt (include "lifl.bytes" (list "agent.arenaMemory" $v.agent.arenaMemory) | int64) 1048576 -}}
{{- fail (printf "agent.arenaMemory is %v: a node needs at least 1Mi for its jobs" $v.agent.arenaMemory) -}}
{{- end -}}
{{- if lt (include "lifl.bytes" (list "agent.processMemory" $v.agent.processMemory) | int64) 67108864 -}}
{{- fail (printf "agent.processMemory is %v: an agent needs at least 64Mi beside the arenas" $v.agent.processMemory) -}}
{{- end -}}
{{- if include "lifl.isLive" . -}}
{{- if and $v.webhook.enabled (not (.Capabilities.APIVersions.Has "serving.knative.dev/v1")) -}}
{{- fail "webhook.enabled is true, but this cluster has no Knative Serving (serving.knative.dev/v1): install it, or set webhook.enabled: false and functions.runtime: deployment" -}}
{{- end -}}
{{- if and $v.webhook.certManager.enabled (not (.Capabilities.APIVersions.Has "cert-manager.io/v1")) -}}
{{- fail "webhook.certManager.enabled is true, but this cluster has no cert-manager: install it, or set it to false" -}}
{{- end -}}
{{- if and (or $v.metrics.podMonitor.enabled $v.metrics.rules.enabled) (not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) -}}
{{- fail "metrics.podMonitor.enabled or metrics.rules.enabled is true, but this cluster has no Prometheus operator: install it, or set both to false" -}}
{{- end -}}
{{- if and (not $v.functions.namespace.create) (not (lookup "v1" "Namespace" "" $v.functions.namespace.name)) -}}
{{- fail (printf "functions.namespace.create is false, but there is no namespace %q: make it, or set functions.namespace.create: true" $v.functions.namespace.name) -}}
{{- end -}}
{{- $level := dig "metadata" "labels" "pod-security.kubernetes.io/enforce" "" (lookup "v1" "Namespace" "" .Release.Namespace) -}}
{{- if has $level (list "baseline" "restricted") -}}
{{- fail (printf "namespace %s enforces PodSecurity level %s, and agents mount folders of the node: kubectl label --overwrite namespace %s pod-security.kubernetes.io/enforce=privileged" .Release.Namespace $level .Release.Namespace) -}}
{{- end -}}
{{- end -}}
{{- end -}}
