// Command agent says what it can do with the ssh agent of its environment: a step of TestSSHMount.
package main

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/crypto/ssh/agent"
)

func main() {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		write("no agent\n")
		return
	}
	var st syscall.Stat_t
	if err := syscall.Stat(socket, &st); err != nil {
		write(err.Error() + "\n")
		return
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	a := agent.NewClient(conn)
	keys, err := a.List()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	text := fmt.Sprintf("%o %d:%d\n", st.Mode&0o777, st.Uid, st.Gid)
	for _, k := range keys {
		signature, err := a.Sign(k, []byte("data"))
		if err == nil {
			err = k.Verify([]byte("data"), signature)
		}
		text += fmt.Sprintf("%s signs: %v\n", k.Comment, err)
	}
	text += fmt.Sprintf("remove all: %v, lock: %v\n", a.RemoveAll() != nil, a.Lock([]byte("x")) != nil)
	write(text)
}

func write(text string) {
	if err := os.WriteFile("/said", []byte(text), 0o644); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
