import static java.nio.charset.StandardCharsets.ISO_8859_1;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.StreamSupport;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** The Java client: the scenarios against the broker at BOOTSTRAP, one line for each. */
public final class Clients {
    private static final String BOOTSTRAP = System.getenv("BOOTSTRAP");

    /** A record as the scenarios compare it: bytes are Latin-1 strings, one character for each. */
    record Rec(int partition, long offset, long timestamp, String key, String value, List<String> headers) {
        static Rec of(ConsumerRecord<byte[], byte[]> from) {
            List<String> headers = StreamSupport.stream(from.headers().spliterator(), false)
                    .map(header -> header.key() + "=" + text(header.value()))
                    .toList();
            return new Rec(from.partition(), from.offset(), from.timestamp(), text(from.key()), text(from.value()), headers);
        }

        Rec at(long offset) {
            return new Rec(partition, offset, timestamp, key, value, headers);
        }

        ProducerRecord<byte[], byte[]> to(String topic) {
            List<Header> list = headers.stream().map(header -> header.split("=", 2)).<Header>map(
                    pair -> new RecordHeader(pair[0], pair[1].equals("null") ? null : bytes(pair[1]))).toList();
            return new ProducerRecord<>(topic, partition, timestamp, bytes(key), bytes(value), list);
        }

        private static String text(byte[] bytes) {
            return bytes == null ? null : new String(bytes, ISO_8859_1);
        }

        private static byte[] bytes(String text) {
            return text == null ? null : text.getBytes(ISO_8859_1);
        }
    }

    /** A member of a group. It makes progress only inside {@link #poll}. */
    static final class Member implements AutoCloseable {
        final KafkaConsumer<byte[], byte[]> consumer;
        final List<Rec> received = new ArrayList<>();

        Member(String group) {
            Map<String, Object> settings = new HashMap<>(Map.of(
                    "bootstrap.servers", BOOTSTRAP, "auto.offset.reset", "earliest", "enable.auto.commit", false,
                    "heartbeat.interval.ms", 500,
                    "key.deserializer", ByteArrayDeserializer.class, "value.deserializer", ByteArrayDeserializer.class));
            settings.put("group.id", group);
            consumer = new KafkaConsumer<>(settings);
        }

        static Member subscribed(String group, String topic) {
            Member member = new Member(group);
            member.consumer.subscribe(List.of(topic));
            return member;
        }

        void poll() {
            consumer.poll(Duration.ofMillis(100)).forEach(record -> received.add(Rec.of(record)));
        }

        List<Rec> poll(int count) {
            Report.until(count + " records", () -> {
                poll();
                return received.size() >= count;
            });
            return received;
        }

        Set<Integer> assignment() {
            return consumer.assignment().stream().map(TopicPartition::partition).collect(Collectors.toCollection(TreeSet::new));
        }

        void commit(String topic, Map<Integer, Long> offsets) {
            Map<TopicPartition, OffsetAndMetadata> places = new HashMap<>();
            offsets.forEach((partition, offset) ->
                    places.put(new TopicPartition(topic, partition), new OffsetAndMetadata(offset, "note")));
            consumer.commitSync(places);
        }

        @Override
        public void close() {
            consumer.close();
        }
    }

    private static final Admin ADMIN = Admin.create(Map.of("bootstrap.servers", BOOTSTRAP));

    /** {@code count} records, one second apart. */
    private static List<Rec> numbered(int count, int partition, long start) {
        return IntStream.range(0, count)
                .mapToObj(n -> new Rec(partition, -1, start + 1000L * n, "key-" + n, "value-" + n + "abc".repeat(40), List.of()))
                .collect(Collectors.toCollection(ArrayList::new));
    }

    private static List<Rec> onEach(int partitions, int count) {
        return IntStream.range(0, partitions).boxed().flatMap(p -> numbered(count, p, hourAgo()).stream()).toList();
    }

    private static long hourAgo() {
        return System.currentTimeMillis() - 3_600_000;
    }

    /** Produces with acks=all, checks that offsets go on from {@code first}, returns the records with their offsets. */
    private static List<Rec> produce(String topic, List<Rec> records, long first, Map<String, Object> more) throws Exception {
        Map<String, Object> settings = new HashMap<>(Map.of(
                "bootstrap.servers", BOOTSTRAP, "acks", "all", "linger.ms", 20, "enable.idempotence", false,
                "key.serializer", ByteArraySerializer.class, "value.serializer", ByteArraySerializer.class));
        settings.putAll(more);
        List<Rec> placed = new ArrayList<>();
        Map<Integer, Long> next = new TreeMap<>();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings)) {
            List<Future<RecordMetadata>> sent = records.stream().map(record -> producer.send(record.to(topic))).toList();
            for (int i = 0; i < sent.size(); i++) {
                RecordMetadata answer = sent.get(i).get();
                Rec record = records.get(i);
                Report.equal(answer.partition(), record.partition, "partition");
                Report.equal(answer.timestamp(), record.timestamp, "timestamp");
                long expected = next.merge(record.partition, first, (before, ignored) -> before + 1);
                Report.equal(answer.offset(), expected, "offset in partition " + record.partition);
                placed.add(record.at(answer.offset()));
            }
        }
        return placed;
    }

    private static List<Rec> produce(String topic, List<Rec> records) throws Exception {
        return produce(topic, records, 0, Map.of());
    }

    private static void create(String topic, int partitions) throws Exception {
        ADMIN.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
    }

    /** Reads with the partition assigned by hand. */
    private static List<Rec> read(String topic, int partition, long offset, int count) {
        try (Member member = new Member("unused")) {
            TopicPartition place = new TopicPartition(topic, partition);
            member.consumer.assign(List.of(place));
            member.consumer.seek(place, offset);
            return member.poll(count);
        }
    }

    private static void equalRecords(List<Rec> actual, List<Rec> expected) {
        Comparator<Rec> byPlace = Comparator.comparingInt(Rec::partition).thenComparingLong(Rec::offset);
        List<Rec> left = actual.stream().sorted(byPlace).toList();
        List<Rec> right = expected.stream().sorted(byPlace).toList();
        Report.equal(left.size(), right.size(), "count of records");
        for (int i = 0; i < left.size(); i++) {
            Report.equal(left.get(i), right.get(i), "record " + i);
        }
    }

    private static void admin(String topic) throws Exception {
        create(topic, 3);
        List<Rec> placed = produce(topic, onEach(3, 2));
        for (int partition = 0; partition < 3; partition++) {
            equalRecords(read(topic, partition, 0, 2), placed.subList(2 * partition, 2 * partition + 2));
        }
        Report.check(ADMIN.listTopics().names().get().contains(topic), "a created topic is not listed");
        Report.equal(ADMIN.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size(), 3, "partitions");
        int node = ADMIN.describeCluster().nodes().get().iterator().next().id();
        var folders = ADMIN.describeLogDirs(List.of(node)).allDescriptions().get().get(node).values();
        Report.equal(folders.size(), 1, "log folders");
        for (var folder : folders) {
            Report.check(folder.usableBytes().getAsLong() <= folder.totalBytes().getAsLong(), "more room than there is");
        }
        ADMIN.deleteTopics(List.of(topic)).all().get();
        Report.until("the deletion", () -> {
            try {
                return !ADMIN.listTopics().names().get().contains(topic);
            } catch (Exception error) {
                throw new AssertionError(error);
            }
        });
    }

    private static void roundtrip(String topic) throws Exception {
        create(topic, 2);
        long start = hourAgo();
        String bytes = IntStream.range(0, 256).mapToObj(Character::toString).collect(Collectors.joining());
        List<Rec> placed = produce(topic, List.of(
                new Rec(0, -1, start, "key", "value", List.of("a=1", "b=\0\u00ff", "a=2", "empty=", "none=null")),
                new Rec(0, -1, start + 7, null, "no key", List.of()),
                new Rec(1, -1, start + 1, "tombstone", null, List.of("why=deleted")),
                new Rec(1, -1, start + 2, "", "", List.of()),
                new Rec(1, -1, start + 3, null, null, List.of()),
                new Rec(0, -1, start + 4, bytes, "x".repeat(100_000), List.of())));
        List<Rec> actual = new ArrayList<>(read(topic, 0, 0, 3));
        actual.addAll(read(topic, 1, 0, 3));
        equalRecords(actual, placed);
    }

    private static void codec(String topic, String codec) throws Exception {
        create(topic, 1);
        List<Rec> placed = produce(topic, numbered(500, 0, hourAgo()), 0, Map.of("compression.type", codec));
        equalRecords(read(topic, 0, 0, 500), placed);
        equalRecords(read(topic, 0, 321, 179), placed.subList(321, 500));
    }

    private static void idempotent(String topic) throws Exception {
        create(topic, 1);
        Map<String, Object> settings = Map.of("enable.idempotence", true, "batch.size", 2000);
        List<Rec> placed = produce(topic, numbered(1000, 0, hourAgo()), 0, settings);
        equalRecords(read(topic, 0, 0, 1000), placed);
    }

    private static void commitResume(String topic) throws Exception {
        create(topic, 1);
        List<Rec> placed = produce(topic, numbered(10, 0, hourAgo()));
        try (Member member = Member.subscribed("group-" + topic, topic)) {
            equalRecords(member.poll(10), placed);
            member.commit(topic, Map.of(0, 4L));
        }
        try (Member member = Member.subscribed("group-" + topic, topic)) {
            equalRecords(member.poll(6), placed.subList(4, 10));
            TopicPartition place = new TopicPartition(topic, 0);
            OffsetAndMetadata committed = member.consumer.committed(Set.of(place)).get(place);
            Report.equal(committed.offset(), 4L, "committed offset");
            Report.equal(committed.metadata(), "note", "metadata of the commit");
        }
    }

    private static void rebalance(String topic) throws Exception {
        create(topic, 4);
        Set<Integer> everything = Set.of(0, 1, 2, 3);
        Member first = Member.subscribed("group-" + topic, topic);
        Member second = Member.subscribed("group-" + topic, topic);
        List<Member> members = List.of(first, second);
        Report.until("half each", () -> {
            members.forEach(Member::poll);
            return first.assignment().size() == 2 && second.assignment().size() == 2;
        });
        Set<Integer> both = new TreeSet<>(first.assignment());
        both.addAll(second.assignment());
        Report.equal(both, everything, "partitions of both members");

        List<Rec> placed = produce(topic, onEach(4, 5));
        Report.until("20 records", () -> {
            members.forEach(Member::poll);
            return first.received.size() + second.received.size() >= 20;
        });
        List<Rec> actual = new ArrayList<>(first.received);
        actual.addAll(second.received);
        equalRecords(actual, placed);
        for (Member member : members) {
            Set<Integer> partitions = member.received.stream().map(Rec::partition).collect(Collectors.toSet());
            Report.equal(partitions, member.assignment(), "partitions of a member's records");
            member.commit(topic, partitions.stream().collect(Collectors.toMap(partition -> partition, ignored -> 5L)));
        }

        second.close();
        first.received.clear();
        Report.until("all partitions again", () -> {
            first.poll();
            return first.assignment().equals(everything);
        });
        List<Rec> more = produce(topic, onEach(4, 1), 5, Map.of());
        equalRecords(first.poll(4), more);
        first.close();
    }

    private static void offsetsForTimes(String topic) throws Exception {
        create(topic, 1);
        long start = hourAgo();
        List<Rec> placed = produce(topic, numbered(10, 0, start));
        TopicPartition place = new TopicPartition(topic, 0);
        try (Member member = new Member("unused")) {
            for (long[] row : new long[][] {{-5000, 0, 0}, {0, 0, 0}, {2500, 3, 3000}, {9000, 9, 9000}}) {
                OffsetAndTimestamp found = member.consumer.offsetsForTimes(Map.of(place, start + row[0])).get(place);
                Report.equal(Arrays.asList(found.offset(), found.timestamp()), Arrays.asList(row[1], start + row[2]), "at " + row[0]);
            }
            Report.equal(member.consumer.offsetsForTimes(Map.of(place, start + 9001)).get(place), null, "past the end");
            Report.equal(member.consumer.beginningOffsets(List.of(place)).get(place), 0L, "beginning");
            Report.equal(member.consumer.endOffsets(List.of(place)).get(place), 10L, "end");
        }
        equalRecords(read(topic, 0, 3, 7), placed.subList(3, 10));
    }

    public static void main(String[] arguments) {
        Report report = new Report(arguments[0]);
        report.scenario("admin", Clients::admin);
        report.scenario("roundtrip", Clients::roundtrip);
        for (String codec : List.of("gzip", "snappy", "lz4", "zstd")) {
            report.scenario("codec-" + codec, topic -> codec(topic, codec));
        }
        report.scenario("idempotent", Clients::idempotent);
        report.scenario("commit-resume", Clients::commitResume);
        report.scenario("rebalance", Clients::rebalance);
        report.scenario("offsets-for-times", Clients::offsetsForTimes);
        System.exit(report.exitCode());
    }

    private Clients() {}
}
