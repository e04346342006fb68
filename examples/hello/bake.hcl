# Three services of one repository. They share the stage `lib`, which is built once, and stand on nothing but the Go
# toolchain of this machine: no registry, no network.
#
#   cd examples/hello && GOROOT=$(go env GOROOT) bake build --allow fs.read="$(go env GOROOT)"

variable "GOROOT" {
  description = "the Go toolchain that compiles the services: $(go env GOROOT)"
  validation {
    condition     = GOROOT != ""
    error_message = "GOROOT is not set: add --var GOROOT=\"$(go env GOROOT)\" and --allow fs.read=\"$(go env GOROOT)\""
  }
}

group "default" {
  targets = ["greeter", "counter", "clock"]
}

target "service" {
  contexts = { go = GOROOT }
}

target "greeter" {
  inherits = ["service"]
  args     = { SERVICE = "greeter" }
  tags     = ["hello/greeter"]
}

target "counter" {
  inherits = ["service"]
  args     = { SERVICE = "counter" }
  tags     = ["hello/counter"]
}

target "clock" {
  inherits = ["service"]
  args     = { SERVICE = "clock" }
  tags     = ["hello/clock"]
}
