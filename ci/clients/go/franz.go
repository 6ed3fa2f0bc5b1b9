package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// franz-go.
type franz struct {
	bootstrap string
	admin     *kadm.Client
}

func newFranz(bootstrap string) client {
	f := &franz{bootstrap: bootstrap}
	f.admin = kadm.NewClient(f.client())
	return f
}

func (f *franz) client(options ...kgo.Opt) *kgo.Client {
	c, err := kgo.NewClient(append(options, kgo.SeedBrokers(f.bootstrap))...)
	check(err)
	return c
}

func (f *franz) createTopic(topic string, partitions int32) {
	_, err := f.admin.CreateTopic(context.Background(), partitions, 1, nil, topic)
	check(err)
}

func (f *franz) deleteTopic(topic string) {
	_, err := f.admin.DeleteTopic(context.Background(), topic)
	check(err)
}

func (f *franz) topics() map[string]int {
	listed, err := f.admin.ListTopics(context.Background())
	check(err)
	counts := map[string]int{}
	for name, detail := range listed {
		counts[name] = len(detail.Partitions)
	}
	return counts
}

func (f *franz) produce(topic string, records []record, codec string, idempotent bool) []record {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	options := []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[codec]),
	}
	if !idempotent {
		options = append(options, kgo.DisableIdempotentWrite())
	}
	c := f.client(options...)
	defer c.Close()
	var messages []*kgo.Record
	for _, one := range records {
		message := &kgo.Record{Topic: topic, Partition: one.partition, Key: one.key, Value: one.value, Timestamp: time.UnixMilli(one.timestamp)}
		for _, pair := range one.headers {
			message.Headers = append(message.Headers, kgo.RecordHeader{Key: pair.key, Value: pair.value})
		}
		messages = append(messages, message)
	}
	check(c.ProduceSync(context.Background(), messages...).FirstErr())
	placed := slices.Clone(records)
	for i, message := range messages {
		placed[i].offset = message.Offset
	}
	return placed
}

func (f *franz) offsetForTime(topic string, partition int32, timestamp int64) int64 {
	// kadm answers with the end where no record is as young; the request itself tells -1.
	request := kmsg.NewPtrListOffsetsRequest()
	request.ReplicaID = -1
	asked := kmsg.NewListOffsetsRequestTopicPartition()
	asked.Partition, asked.Timestamp = partition, timestamp
	request.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{asked}}}
	c := f.client()
	defer c.Close()
	answer, err := request.RequestWith(context.Background(), c)
	check(err)
	found := answer.Topics[0].Partitions[0]
	check(kerr.ErrorForCode(found.ErrorCode))
	return found.Offset
}

func (f *franz) read(topic string, partition int32, offset int64, count int) (records []record) {
	from := map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(offset)}}
	c := f.client(kgo.ConsumePartitions(from))
	defer c.Close()
	until("records", func() bool {
		records = append(records, pollFranz(c)...)
		return len(records) >= count
	})
	return records
}

func pollFranz(c *kgo.Client) (records []record) {
	soon, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	fetches := c.PollFetches(soon)
	fetches.EachError(func(_ string, _ int32, err error) {
		if !errors.Is(err, context.DeadlineExceeded) {
			panic(err)
		}
	})
	fetches.EachRecord(func(from *kgo.Record) {
		var headers []header
		for _, pair := range from.Headers {
			headers = append(headers, header{pair.Key, pair.Value})
		}
		records = append(records, record{from.Partition, from.Offset, from.Timestamp.UnixMilli(), from.Key, from.Value, headers})
	})
	return records
}

// A member's callbacks run on the client's goroutines while the scenario polls.
type franzMember struct {
	client *kgo.Client
	topic  string
	lock   sync.Mutex
	owned  []int32
}

func (f *franz) join(group, topic string) member {
	m := &franzMember{topic: topic}
	gone := func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
		m.lock.Lock()
		defer m.lock.Unlock()
		m.owned = slices.DeleteFunc(m.owned, func(one int32) bool { return slices.Contains(partitions[topic], one) })
	}
	m.client = f.client(
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.HeartbeatInterval(500*time.Millisecond),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
			m.lock.Lock()
			defer m.lock.Unlock()
			m.owned = append(m.owned, partitions[topic]...)
		}),
		kgo.OnPartitionsRevoked(gone),
		kgo.OnPartitionsLost(gone),
	)
	return m
}

func (m *franzMember) poll() []record { return pollFranz(m.client) }

func (m *franzMember) assignment() []int32 {
	m.lock.Lock()
	defer m.lock.Unlock()
	return slices.Sorted(slices.Values(m.owned))
}

func (m *franzMember) commit(offsets map[int32]int64) {
	places := map[int32]kgo.EpochOffset{}
	for partition, offset := range offsets {
		places[partition] = kgo.EpochOffset{Epoch: -1, Offset: offset}
	}
	m.client.CommitOffsetsSync(context.Background(), map[string]map[int32]kgo.EpochOffset{m.topic: places},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, err error) {
			check(err)
			for _, done := range answer.Topics[0].Partitions {
				check(kerr.ErrorForCode(done.ErrorCode))
			}
		})
}

func (m *franzMember) leave() { m.client.Close() }
