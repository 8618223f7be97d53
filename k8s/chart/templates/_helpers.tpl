{{/* The name of everything: the release's, with the chart's when that is not in it. */}}
{{- define "skvaller.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "skvaller.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* The labels by which the pods are found. They never change. */}}
{{- define "skvaller.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "skvaller.labels" -}}
{{ include "skvaller.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* What all containers may do: be root, and nothing more. */}}
{{- define "skvaller.securityContext" -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
seccompProfile:
  type: RuntimeDefault
{{- with .Values.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* SKVALLER_REGISTRIES: NAME=URL or NAME=URL,ca_file=PATH, separated by spaces. */}}
{{- define "skvaller.registries" -}}
{{- range $index, $registry := .Values.registries }}
{{- if $index }} {{ end }}{{ $registry.name }}={{ $registry.url }}
{{- with $registry.caFile }},ca_file=/etc/skvaller/ca/{{ . }}{{ end }}
{{- end }}
{{- end }}

{{/* SKVALLER_SEEDS: the headless service's name, the Lease, and what else is wanted. */}}
{{- define "skvaller.seeds" -}}
{{- $seeds := list }}
{{- if .Values.seeding.service }}
{{- $seeds = append $seeds (printf "%s.%s.svc:%v" (include "skvaller.name" .) .Release.Namespace .Values.ports.router) }}
{{- end }}
{{- if .Values.seeding.lease }}
{{- $seeds = append $seeds (printf "lease:%s" (include "skvaller.name" .)) }}
{{- end }}
{{- join "," (concat $seeds .Values.seeds) }}
{{- end }}

{{- define "skvaller.tokenMount" -}}
- name: token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}

{{/* Of all pods: on every node, with its network, and without the token that would be mounted into every container. */}}
{{- define "skvaller.anywhere" -}}
hostNetwork: true
automountServiceAccountToken: false
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Of containers that run a command now and then. */}}
{{- define "skvaller.smallResources" -}}
requests:
  cpu: 5m
  memory: 32Mi
limits:
  memory: 128Mi
{{- end }}

{{/* Of the containers that write hosts.toml files; each runs a script of its own. */}}
{{- define "skvaller.hostsContainer" -}}
image: {{ include "skvaller.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [sh, -c]
resources:
  {{- include "skvaller.smallResources" . | nindent 2 }}
securityContext:
  {{- include "skvaller.securityContext" . | nindent 2 }}
  capabilities:
    drop: [ALL]
    # Files of other owners are written, and keep their owner and mode.
    add: [CHOWN, DAC_OVERRIDE, FOWNER]
volumeMounts:
  - name: certs
    mountPath: /certs.d
  # No command starts without a directory for temporary files.
  - name: tmp
    mountPath: /tmp
{{- end }}

{{/* The beginning of a script: what leads containerd to the agent, and undoes it when the pod is told to end. */}}
{{- define "skvaller.configure" -}}
trap 'skvaller cleanup --certs-dir /certs.d; exit' TERM
configure() {
  skvaller configure --certs-dir /certs.d --mirror http://127.0.0.1:{{ .Values.ports.client }} --mode {{ .Values.hosts.mode }} {{- if .Values.hosts.onlyNamed }} --only-named{{ end }} {{- range .Values.hosts.registries }} --registry {{ . }}{{ end }}
}
{{- end }}
