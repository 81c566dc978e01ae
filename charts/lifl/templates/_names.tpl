{{/* Names and labels that the templates have in common. */}}

{{- define "lifl.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "lifl.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "lifl.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "lifl.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Of every object.  Argument: [context, component]. */}}
{{- define "lifl.labels" -}}
{{- $ := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" | trunc 63 }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
{{ include "lifl.selector" . }}
{{- end -}}

{{/* By which pods are chosen; never changes.  Argument: [context, component]. */}}
{{- define "lifl.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ include "lifl.name" $ }}
app.kubernetes.io/instance: {{ $.Release.Name }}
lifl.dev/component: {{ index . 1 }}
{{- end -}}

{{- define "lifl.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "lifl.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of a container without any privilege. */}}
{{- define "lifl.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* A token for one reader.  Argument: its audience. */}}
{{- define "lifl.token" -}}
projected:
  sources:
    - serviceAccountToken:
        audience: {{ . }}
        expirationSeconds: 3600
        path: token
{{- end -}}

{{/* Bytes of a quantity such as 1.5Gi.  Argument: [what it is of, the quantity]. */}}
{{- define "lifl.bytes" -}}
{{- $text := index . 1 -}}
{{- if kindIs "float64" $text -}}{{- $text = printf "%.0f" $text -}}{{- end -}}
{{- $text = toString $text -}}
{{- $number := regexFind "^(0|[1-9][0-9]*)(\\.[0-9]{1,3})?" $text -}}
{{- $unit := regexFind "[A-Za-z]*$" $text -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- if or (not $number) (not (hasKey $units $unit)) (ne (printf "%s%s" $number $unit) $text) -}}
{{- fail (printf "%s is %q: it must be an amount of memory like 512Mi or 1.5Gi" (index . 0) $text) -}}
{{- end -}}
{{- $parts := splitList "." $number -}}
{{- $thousandths := mul 1000 (index $parts 0 | int64) -}}
{{- if gt (len $parts) 1 -}}
{{- $thousandths = add $thousandths (printf "%s00" (index $parts 1) | trunc 3 | trimPrefix "0" | trimPrefix "0" | default "0" | int64) -}}
{{- end -}}
{{- div (mul $thousandths (get $units $unit | int64)) 1000 -}}
{{- end -}}

{{/* Whether there is a cluster behind this, so that it can be asked: "yes", or empty. */}}
{{- define "lifl.isLive" -}}
{{- if lookup "v1" "Namespace" "" "kube-system" -}}yes{{- end -}}
{{- end -}}
