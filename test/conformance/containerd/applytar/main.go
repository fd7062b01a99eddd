// Command applytar says what containerd makes of tar archives.
//
// Usage: applytar DIRECTORY ARCHIVE...
//
// Each archive is applied to a new directory below DIRECTORY. For each one a
// line of JSON is printed: the tree that came of it, or the error.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/archive"
)

type node struct {
	Path    string            `json:"path"` // hex
	Type    string            `json:"type"`
	Mode    uint32            `json:"mode"`
	UID     uint32            `json:"uid"`
	GID     uint32            `json:"gid"`
	Sec     int64             `json:"sec"`
	Nsec    int64             `json:"nsec"`
	Size    int64             `json:"size"`
	Content string            `json:"content"` // sha256 of a file, hex of a link's target
	Rdev    uint64            `json:"rdev"`
	Inode   uint64            `json:"inode"`
	Xattrs  map[string]string `json:"xattrs"` // values in hex
}

type result struct {
	Nodes []node `json:"nodes"`
	Error string `json:"error"`
}

func main() {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	encoder := json.NewEncoder(out)
	for i, name := range os.Args[2:] {
		root := filepath.Join(os.Args[1], fmt.Sprint(i))
		nodes, err := apply(name, root)
		r := result{Nodes: nodes}
		if err != nil {
			r = result{Error: err.Error()}
		}
		if err := encoder.Encode(r); err != nil {
			panic(err)
		}
		if err := os.RemoveAll(root); err != nil {
			panic(err)
		}
	}
}

func apply(name, root string) ([]node, error) {
	if err := os.Mkdir(root, 0o755); err != nil {
		panic(err)
	}
	file, err := os.Open(name)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	if _, err := archive.Apply(context.Background(), root, file); err != nil {
		return nil, err
	}
	nodes := []node{}
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		n, err := describe(root, path)
		nodes = append(nodes, n)
		return err
	})
	return nodes, err
}

var types = map[uint32]string{
	syscall.S_IFREG: "regular", syscall.S_IFDIR: "directory", syscall.S_IFLNK: "symlink",
	syscall.S_IFCHR: "charDevice", syscall.S_IFBLK: "blockDevice", syscall.S_IFIFO: "fifo",
}

func describe(root, path string) (node, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return node{}, err
	}
	n := node{
		Path: hex.EncodeToString([]byte(strings.TrimPrefix(path, root+"/"))),
		Type: types[st.Mode&syscall.S_IFMT], Mode: st.Mode & 0o7777,
		UID: st.Uid, GID: st.Gid, Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec, Inode: st.Ino,
		Xattrs: map[string]string{},
	}
	switch n.Type {
	case "regular":
		content, err := os.ReadFile(path)
		if err != nil {
			return n, err
		}
		sum := sha256.Sum256(content)
		n.Size, n.Content = st.Size, hex.EncodeToString(sum[:])
	case "symlink":
		target, err := os.Readlink(path)
		if err != nil {
			return n, err
		}
		n.Content = hex.EncodeToString([]byte(target))
		return n, nil
	case "charDevice", "blockDevice":
		n.Rdev = st.Rdev
	}
	return n, readXattrs(path, n.Xattrs)
}

func readXattrs(path string, into map[string]string) error {
	names := make([]byte, 65536)
	size, err := syscall.Listxattr(path, names)
	if err != nil {
		return err
	}
	list := strings.Split(string(names[:size]), "\x00")
	sort.Strings(list)
	for _, name := range list {
		if name == "" {
			continue
		}
		value := make([]byte, 65536)
		size, err := syscall.Getxattr(path, name, value)
		if err != nil {
			return err
		}
		into[name] = hex.EncodeToString(value[:size])
	}
	return nil
}
