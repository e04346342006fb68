// Command step is what the RUN steps of the tests execute: a static program, so that no base image is needed. Its
// arguments are commands, separated by ";".
package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	for args := os.Args[1:]; len(args) > 0; {
		command := args
		if end := slices.Index(args, ";"); end >= 0 {
			command, args = args[:end], args[end+1:]
		} else {
			args = nil
		}
		if err := run(command[0], command[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "step:", err)
			os.Exit(1)
		}
	}
}

func run(name string, args []string) error {
	switch name {
	case "write": // PATH TEXT
		return write(args[0], args[1])
	case "random": // PATH
		return write(args[0], rand.Text())
	case "count": // PATH: the number in it rises by one
		raw, _ := os.ReadFile(args[0])
		n, _ := strconv.Atoi(string(raw))
		return write(args[0], strconv.Itoa(n+1))
	case "copy": // FROM TO
		raw, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		return write(args[1], string(raw))
	case "print": // TEXT
		fmt.Println(args[0])
		return nil
	case "fail": // CODE
		fmt.Println("about to fail")
		fmt.Fprintln(os.Stderr, "it failed")
		code, err := strconv.Atoi(args[0])
		os.Exit(code)
		return err
	case "gate": // FILE: waits for ever when the file says so
		raw, err := os.ReadFile(args[0])
		if strings.TrimSpace(string(raw)) == "stay" {
			fmt.Println("waiting")
			time.Sleep(time.Hour)
		}
		return err
	case "absent": // PATH
		if _, err := os.Lstat(args[0]); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is there: %v", args[0], err)
		}
		return nil
	case "readonly": // PATH
		if err := write(args[0], "x"); err == nil {
			return fmt.Errorf("%s can be written", args[0])
		}
		return nil
	case "listen": // ADDRESS PATH: keeps what a server says
		conn, err := net.Dial("tcp", args[0])
		if err != nil {
			return err
		}
		defer conn.Close()
		raw, err := io.ReadAll(conn)
		return errors.Join(err, write(args[1], string(raw)))
	case "alone": // ADDRESS: nothing is there
		conn, err := net.Dial("tcp", args[0])
		if err == nil {
			return errors.Join(fmt.Errorf("%s can be reached", args[0]), conn.Close())
		}
		return nil
	case "facts": // PATH: who and where this process is
		return facts(args[0])
	}
	return fmt.Errorf("unknown command %s", name)
}

func write(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.WriteString(file, text)
	return errors.Join(err, file.Close())
}

func facts(path string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	text := fmt.Sprintf("pid=%d uid=%d gid=%d host=%s dir=%s", os.Getpid(), os.Getuid(), os.Getgid(), host, dir)
	for _, l := range links {
		text += " link=" + l.Name
	}
	for _, e := range os.Environ() {
		text += " " + e
	}
	return write(path, text)
}
