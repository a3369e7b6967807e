// Checks histories that `sim --histories` wrote with Porcupine, a linearizability checker that knows nothing of ours.
//
// Every line of a file is one operation: who, from when to when, and what was written or seen. Registers and lists are
// independent of each other, so each key is a history of its own. A write whose outcome nobody knows may take effect at
// any later time or never: it gets no end.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

// operation is one line of a history.
type operation struct {
	Client int      `json:"client"`
	Begun  int64    `json:"begun"`
	Ended  int64    `json:"ended"`
	Kind   string   `json:"kind"`
	Key    string   `json:"key"`
	Value  []uint64 `json:"value"`
	Known  bool     `json:"known"`
}

// perHistory bounds the search; most histories take milliseconds; the few with many unknown outcomes would take for ever.
const perHistory = 5 * time.Second

// state of one key, as text: a register's value, or a list's items. Comparable, as Porcupine wants it.
func model() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string][]porcupine.Operation{}
			for _, op := range history {
				key := op.Input.(operation).Key
				byKey[key] = append(byKey[key], op)
			}
			var parts [][]porcupine.Operation
			for _, part := range byKey {
				parts = append(parts, part)
			}
			return parts
		},
		Init: func() interface{} { return "" },
		Step: func(state, input, output interface{}) (bool, interface{}) {
			op := input.(operation)
			switch op.Kind {
			case "set":
				return true, fmt.Sprint(op.Value[0])
			case "append":
				return true, fmt.Sprint(state, " ", op.Value[0])
			default:
				return seen(op) == state.(string), state
			}
		},
		DescribeOperation: func(input, output interface{}) string {
			op := input.(operation)
			return fmt.Sprintf("%s %s %v", op.Kind, op.Key, op.Value)
		},
	}
}

// seen is the state that a read saw.
func seen(op operation) string {
	if op.Key[0] == 'r' {
		if op.Value[0] == 0 {
			return ""
		}
		return fmt.Sprint(op.Value[0])
	}
	text := ""
	for _, item := range op.Value {
		text = fmt.Sprint(text, " ", item)
	}
	return text
}

func read(path string) ([]porcupine.Operation, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var history []porcupine.Operation
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var op operation
		if err := json.Unmarshal(lines.Bytes(), &op); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		history = append(history, porcupine.Operation{
			ClientId: op.Client, Input: op, Call: op.Begun, Output: nil, Return: op.Ended,
		})
	}
	return history, lines.Err()
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: porcupine FOLDER")
		os.Exit(2)
	}
	paths, err := filepath.Glob(filepath.Join(os.Args[1], "*.jsonl"))
	if err != nil || len(paths) == 0 {
		fmt.Fprintln(os.Stderr, "no histories in", os.Args[1])
		os.Exit(2)
	}
	sort.Strings(paths)
	operations, bad, undecided := 0, 0, 0
	for _, path := range paths {
		history, err := read(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		operations += len(history)
		switch porcupine.CheckOperationsTimeout(model(), history, perHistory) {
		case porcupine.Illegal:
			bad++
			fmt.Println("not linearizable:", path)
		case porcupine.Unknown:
			undecided++
			fmt.Println("not decided in time:", path)
		}
	}
	fmt.Printf("porcupine: histories=%d operations=%d illegal=%d undecided=%d\n", len(paths), operations, bad, undecided)
	if bad > 0 {
		os.Exit(1)
	}
}
