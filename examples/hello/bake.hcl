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
  test "the program is there" {
    file          = "/app"
    executable-by = "other"
  }
  test "config" {
    config {
      entrypoint = ["/app"]
      labels     = { "org.opencontainers.image.title" = self.name }
    }
  }
}

target "greeter" {
  inherits = ["service"]
  args     = { SERVICE = "greeter" }
  tags     = ["hello/greeter"]
  test "greets" {
    command = ["/app", "you"]
    stdout  = "greeter says: hello, you!\n"
  }
}

target "counter" {
  inherits = ["service"]
  args     = { SERVICE = "counter" }
  tags     = ["hello/counter"]
  test "structure" { structure = "services/counter/test.yaml" }
}

target "clock" {
  inherits = ["service"]
  args     = { SERVICE = "clock" }
  tags     = ["hello/clock"]
}
