// Command clock tells the time.
package main

import (
	"fmt"
	"time"

	"example.com/hello/lib/greet"
)

func main() {
	fmt.Println(greet.To("clock", time.Now().UTC().Format(time.TimeOnly)))
}
