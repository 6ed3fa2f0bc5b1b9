package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// sarama, at the newest protocol versions it knows.
type saramaClient struct {
	bootstrap []string
	admin     sarama.ClusterAdmin
}

func newSarama(bootstrap string) client {
	s := &saramaClient{bootstrap: []string{bootstrap}}
	var err error
	s.admin, err = sarama.NewClusterAdmin(s.bootstrap, saramaConfig())
	check(err)
	return s
}

func saramaConfig() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Consumer.Group.Heartbeat.Interval = 500 * time.Millisecond
	return config
}

func (s *saramaClient) createTopic(topic string, partitions int32) {
	check(s.admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: 1}, false))
}

func (s *saramaClient) deleteTopic(topic string) { check(s.admin.DeleteTopic(topic)) }

func (s *saramaClient) topics() map[string]int {
	listed, err := s.admin.ListTopics()
	check(err)
	counts := map[string]int{}
	for name, detail := range listed {
		counts[name] = int(detail.NumPartitions)
	}
	return counts
}

func (s *saramaClient) produce(topic string, records []record, codec string, idempotent bool) []record {
	config := saramaConfig()
	check(config.Producer.Compression.UnmarshalText([]byte(codec)))
	if idempotent {
		config.Producer.Idempotent = true
		config.Net.MaxOpenRequests = 1
	}
	producer, err := sarama.NewSyncProducer(s.bootstrap, config)
	check(err)
	defer producer.Close()
	var messages []*sarama.ProducerMessage
	for _, one := range records {
		message := &sarama.ProducerMessage{Topic: topic, Partition: one.partition, Timestamp: time.UnixMilli(one.timestamp)}
		if one.key != nil {
			message.Key = sarama.ByteEncoder(one.key)
		}
		if one.value != nil {
			message.Value = sarama.ByteEncoder(one.value)
		}
		for _, pair := range one.headers {
			message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(pair.key), Value: pair.value})
		}
		messages = append(messages, message)
	}
	check(producer.SendMessages(messages))
	placed := slices.Clone(records)
	for i, message := range messages {
		equal(message.Partition, placed[i].partition, "partition")
		placed[i].offset = message.Offset
	}
	return placed
}

func (s *saramaClient) offsetForTime(topic string, partition int32, timestamp int64) int64 {
	c, err := sarama.NewClient(s.bootstrap, saramaConfig())
	check(err)
	defer c.Close()
	offset, err := c.GetOffset(topic, partition, timestamp)
	check(err)
	return offset
}

func recordOf(from *sarama.ConsumerMessage) record {
	var headers []header
	for _, pair := range from.Headers {
		headers = append(headers, header{string(pair.Key), pair.Value})
	}
	return record{from.Partition, from.Offset, from.Timestamp.UnixMilli(), from.Key, from.Value, headers}
}

// What has arrived on the channel, waiting a moment for the first.
func arrived(messages <-chan *sarama.ConsumerMessage) []record {
	select {
	case message, open := <-messages:
		if open {
			return []record{recordOf(message)}
		}
	case <-time.After(100 * time.Millisecond):
	}
	return nil
}

func (s *saramaClient) read(topic string, partition int32, offset int64, count int) (records []record) {
	consumer, err := sarama.NewConsumer(s.bootstrap, saramaConfig())
	check(err)
	defer consumer.Close()
	from, err := consumer.ConsumePartition(topic, partition, offset)
	check(err)
	defer from.Close()
	until("records", func() bool {
		records = append(records, arrived(from.Messages())...)
		return len(records) >= count
	})
	return records
}

// A member: sarama calls Setup, ConsumeClaim and Cleanup on its own goroutines.
type saramaMember struct {
	group    sarama.ConsumerGroup
	topic    string
	messages chan *sarama.ConsumerMessage
	lock     sync.Mutex
	session  sarama.ConsumerGroupSession // nil between two assignments
}

func (s *saramaClient) join(group, topic string) member {
	m := &saramaMember{topic: topic, messages: make(chan *sarama.ConsumerMessage, 10_000)}
	var err error
	m.group, err = sarama.NewConsumerGroup(s.bootstrap, group, saramaConfig())
	check(err)
	go func() {
		for !errors.Is(err, sarama.ErrClosedConsumerGroup) {
			err = m.group.Consume(context.Background(), []string{topic}, m)
		}
	}()
	return m
}

func (m *saramaMember) set(session sarama.ConsumerGroupSession) error {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.session = session
	return nil
}

func (m *saramaMember) Setup(session sarama.ConsumerGroupSession) error { return m.set(session) }

func (m *saramaMember) Cleanup(sarama.ConsumerGroupSession) error { return m.set(nil) }

func (m *saramaMember) ConsumeClaim(_ sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		m.messages <- message
	}
	return nil
}

func (m *saramaMember) poll() []record { return arrived(m.messages) }

func (m *saramaMember) assignment() []int32 {
	m.lock.Lock()
	defer m.lock.Unlock()
	if m.session == nil {
		return nil
	}
	return slices.Sorted(slices.Values(m.session.Claims()[m.topic]))
}

func (m *saramaMember) commit(offsets map[int32]int64) {
	m.lock.Lock()
	defer m.lock.Unlock()
	for partition, offset := range offsets {
		m.session.MarkOffset(m.topic, partition, offset, "")
	}
	m.session.Commit()
}

func (m *saramaMember) leave() { check(m.group.Close()) }
