// Command greeter greets the person named on its command line, or the world.
package main

import (
	"fmt"
	"os"

	"example.com/hello/lib/greet"
)

func main() {
	names := os.Args[1:]
	if len(names) == 0 {
		names = []string{"world"}
	}
	for _, name := range names {
		fmt.Println(greet.To("greeter", name))
	}
}
