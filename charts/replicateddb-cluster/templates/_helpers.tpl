{{- define "cluster.name" -}}
{{- $name := default .Release.Name .Values.name -}}
{{- if gt (len $name) 57 -}}
{{- fail (printf "the name %q has more than 57 characters" $name) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the name %q must consist of a-z, 0-9 and '-', beginning with a letter" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}
