// The scenarios that every Go client must pass, written once against a small interface.
// Run as `clients SUITE` with the broker's HOST:PORT in the environment as BOOTSTRAP.
package main

import (
	"cmp"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"time"
)

// How long anything that must happen may take: a generous bound, not a measurement.
const limit = 60 * time.Second

type header struct {
	key   string
	value []byte
}

// A record as the scenarios compare it; timestamps are milliseconds.
type record struct {
	partition  int32
	offset     int64
	timestamp  int64
	key, value []byte
	headers    []header
}

// One client library. Methods panic on an error, which fails the scenario.
type client interface {
	createTopic(topic string, partitions int32)
	deleteTopic(topic string)
	// The number of partitions of each topic.
	topics() map[string]int
	// Produces with acks=all; returns the records with the offsets that the broker gave them.
	produce(topic string, records []record, codec string, idempotent bool) []record
	join(group, topic string) member
	// The first offset at or after a time, -1 if there is none.
	offsetForTime(topic string, partition int32, timestamp int64) int64
	// Reads `count` records from `offset` on, outside of any group.
	read(topic string, partition int32, offset int64, count int) []record
}

type member interface {
	// The records that arrived; returns soon.
	poll() []record
	// The partitions this member owns now, in order.
	assignment() []int32
	commit(offsets map[int32]int64)
	leave()
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func equal(actual, expected any, what string) {
	if !reflect.DeepEqual(actual, expected) {
		panic(fmt.Sprintf("%s: expected %.300v, got %.300v", what, expected, actual))
	}
}

func until(what string, condition func() bool) {
	for deadline := time.Now().Add(limit); !condition(); {
		if time.Now().After(deadline) {
			panic(fmt.Sprintf("%v was not enough for %s", limit, what))
		}
	}
}

// `count` records for each partition, one second apart.
func numbered(count int, start int64, partitions ...int32) (records []record) {
	for _, partition := range partitions {
		for n := range count {
			records = append(records, record{
				partition: partition,
				timestamp: start + 1000*int64(n),
				key:       fmt.Appendf(nil, "key-%d", n),
				value:     fmt.Appendf(nil, "value-%d %s", n, strings.Repeat("abc", 40)),
			})
		}
	}
	return records
}

func hourAgo() int64 {
	return time.Now().Add(-time.Hour).UnixMilli()
}

// Produces and checks that every partition's offsets go on from `first` without a gap.
func produce(c client, topic string, records []record, first int64, codec string, idempotent bool) []record {
	placed := c.produce(topic, records, codec, idempotent)
	next := map[int32]int64{}
	for _, one := range placed {
		equal(one.offset, first+next[one.partition], fmt.Sprintf("offset in partition %d", one.partition))
		next[one.partition]++
	}
	equal(len(placed), len(records), "acknowledged records")
	return placed
}

func equalRecords(actual, expected []record) {
	byPlace := func(a, b record) int {
		return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.offset, b.offset))
	}
	actual, expected = slices.SortedFunc(slices.Values(actual), byPlace), slices.SortedFunc(slices.Values(expected), byPlace)
	equal(len(actual), len(expected), "count of records")
	for i := range actual {
		equal(actual[i], expected[i], fmt.Sprintf("record %d", i))
	}
}

func admin(c client, topic string) {
	c.createTopic(topic, 3)
	placed := produce(c, topic, numbered(2, hourAgo(), 0, 1, 2), 0, "none", false)
	for partition := range int32(3) {
		equalRecords(c.read(topic, partition, 0, 2), placed[2*partition:2*partition+2])
	}
	equal(c.topics()[topic], 3, "partitions of a created topic")
	c.deleteTopic(topic)
	until("the deletion", func() bool { return c.topics()[topic] == 0 })
}

func roundtrip(c client, topic string) {
	c.createTopic(topic, 2)
	start := hourAgo()
	bytes := make([]byte, 256)
	for i := range bytes {
		bytes[i] = byte(i)
	}
	all := []header{{"a", []byte("1")}, {"b", []byte{0, 255}}, {"a", []byte("2")}, {"empty", []byte{}}}
	placed := produce(c, topic, []record{
		{partition: 0, timestamp: start, key: []byte("key"), value: []byte("value"), headers: all},
		{partition: 0, timestamp: start + 7, value: []byte("no key")},
		{partition: 1, timestamp: start + 1, key: []byte("tombstone"), headers: []header{{"why", []byte("deleted")}}},
		{partition: 1, timestamp: start + 2, key: []byte{}, value: []byte{}},
		{partition: 1, timestamp: start + 3},
		{partition: 0, timestamp: start + 4, key: bytes, value: []byte(strings.Repeat("x", 100_000))},
	}, 0, "none", false)
	equalRecords(append(c.read(topic, 0, 0, 3), c.read(topic, 1, 0, 3)...), placed)
}

func codec(name string) func(client, string) {
	return func(c client, topic string) {
		c.createTopic(topic, 1)
		placed := produce(c, topic, numbered(500, hourAgo(), 0), 0, name, false)
		equalRecords(c.read(topic, 0, 0, 500), placed)
		equalRecords(c.read(topic, 0, 321, 179), placed[321:])
	}
}

func idempotent(c client, topic string) {
	c.createTopic(topic, 1)
	placed := produce(c, topic, numbered(1000, hourAgo(), 0), 0, "none", true)
	equalRecords(c.read(topic, 0, 0, 1000), placed)
}

func commitResume(c client, topic string) {
	c.createTopic(topic, 1)
	placed := produce(c, topic, numbered(10, hourAgo(), 0), 0, "none", false)
	first := c.join("group-"+topic, topic)
	equalRecords(take(first, 10), placed)
	first.commit(map[int32]int64{0: 4})
	first.leave()
	second := c.join("group-"+topic, topic)
	equalRecords(take(second, 6), placed[4:])
	second.leave()
}

func take(from member, count int) (records []record) {
	until(fmt.Sprintf("%d records", count), func() bool {
		records = append(records, from.poll()...)
		return len(records) >= count
	})
	return records
}

func rebalance(c client, topic string) {
	everything := []int32{0, 1, 2, 3}
	c.createTopic(topic, 4)
	members := []member{c.join("group-"+topic, topic)}
	received := make([][]record, 2)
	poll := func() {
		for i, one := range members {
			received[i] = append(received[i], one.poll()...)
		}
	}
	until("all partitions", func() bool { poll(); return len(members[0].assignment()) == 4 })
	members = append(members, c.join("group-"+topic, topic))
	until("half each", func() bool {
		poll()
		return len(members[0].assignment()) == 2 && len(members[1].assignment()) == 2
	})
	equal(slices.Sorted(slices.Values(slices.Concat(members[0].assignment(), members[1].assignment()))), everything, "partitions")

	placed := produce(c, topic, numbered(5, hourAgo(), everything...), 0, "none", false)
	until("20 records", func() bool { poll(); return len(received[0])+len(received[1]) >= 20 })
	equalRecords(slices.Concat(received...), placed)
	for i, one := range members {
		offsets := map[int32]int64{}
		for _, partition := range one.assignment() {
			offsets[partition] = 5
		}
		for _, arrived := range received[i] {
			equal(offsets[arrived.partition], int64(5), "the owner of a record's partition")
		}
		one.commit(offsets)
	}

	members[1].leave()
	members, received = members[:1], make([][]record, 1)
	until("all partitions again", func() bool { poll(); return len(members[0].assignment()) == 4 })
	more := produce(c, topic, numbered(1, hourAgo(), everything...), 5, "none", false)
	until("4 records", func() bool { poll(); return len(received[0]) >= 4 })
	equalRecords(received[0], more)
	members[0].leave()
}

func offsetsForTimes(c client, topic string) {
	c.createTopic(topic, 1)
	start := hourAgo()
	placed := produce(c, topic, numbered(10, start, 0), 0, "none", false)
	for _, row := range [][2]int64{{-5000, 0}, {0, 0}, {2500, 3}, {9000, 9}, {9001, -1}} {
		equal(c.offsetForTime(topic, 0, start+row[0]), row[1], fmt.Sprintf("offset at start + %d ms", row[0]))
	}
	equalRecords(c.read(topic, 0, 3, 7), placed[3:])
}

// Runs one scenario and prints its line; a panic is a failure.
func run(suite, name string, scenario func(client, string), c client) (passed bool) {
	defer func() {
		if why := recover(); why != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s\n", why, debug.Stack())
			fmt.Printf("FAIL %s %s: %s\n", suite, name, strings.ReplaceAll(fmt.Sprint(why), "\n", " "))
		}
	}()
	stuck := time.AfterFunc(2*limit, func() { // Some calls retry for ever.
		fmt.Printf("FAIL %s %s: no end after %v\n", suite, name, 2*limit)
		pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
		os.Exit(1)
	})
	defer stuck.Stop()
	scenario(c, fmt.Sprintf("%s-%d-%s", suite, time.Now().UnixNano(), name))
	fmt.Printf("ok %s %s\n", suite, name)
	return true
}

func main() {
	suite, bootstrap := os.Args[1], os.Getenv("BOOTSTRAP")
	c := map[string]func(string) client{"franz-go": newFranz, "sarama": newSarama}[suite](bootstrap)
	passed := true
	for _, one := range []struct {
		name     string
		scenario func(client, string)
	}{
		{"admin", admin},
		{"roundtrip", roundtrip},
		{"codec-gzip", codec("gzip")},
		{"codec-snappy", codec("snappy")},
		{"codec-lz4", codec("lz4")},
		{"codec-zstd", codec("zstd")},
		{"idempotent", idempotent},
		{"commit-resume", commitResume},
		{"rebalance", rebalance},
		{"offsets-for-times", offsetsForTimes},
	} {
		passed = run(suite, one.name, one.scenario, c) && passed
	}
	if !passed {
		os.Exit(1)
	}
}
