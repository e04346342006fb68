# The Docker tutorial's Flask application as a project file, with its base pinned by digest: the tag says what is meant,
# the digest says which bytes.
#
#   cd examples/flask && bake build

variable "PYTHON" {
  description = "the base image, pinned"
  default     = "python:3.8-alpine@sha256:3d93b1f77efce339aa77db726656872517b0d67837989aa7c4b35bd5ae7e81ba"
}

target "default" {
  contexts = { "python:3.8-alpine" = "docker-image://${PYTHON}" }
  tags     = ["python-hello-world"]
}
