// Command counter counts to three.
package main

import (
	"fmt"

	"example.com/hello/lib/greet"
)

func main() {
	for i := 1; i <= 3; i++ {
		fmt.Println(greet.To("counter", fmt.Sprint(i)))
	}
}
