// kafkajs: the scenarios against the broker at BOOTSTRAP, one line for each.

const assert = require('node:assert/strict')
const { setTimeout: pause } = require('node:timers/promises')
const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = require('kafkajs')
const lz4 = require('lz4-napi')
const snappy = require('kafkajs-snappy')
const zstd = require('@bokuweb/zstd-wasm')

const SECONDS_MAX = 60 // How long anything that must happen may take.
const CODECS = { gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, lz4: CompressionTypes.LZ4, zstd: CompressionTypes.ZSTD }

CompressionCodecs[CompressionTypes.Snappy] = snappy
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: (encoder) => lz4.compressFrame(encoder.buffer),
  decompress: (bytes) => lz4.decompressFrame(bytes),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer)),
  decompress: async (bytes) => Buffer.from(zstd.decompress(bytes)),
})

const kafka = new Kafka({
  brokers: [process.env.BOOTSTRAP],
  logLevel: logLevel.ERROR,
  // kafkajs logs to stdout, which belongs to the scenarios.
  logCreator: () => ({ log }) => console.error(log.message, log.error ?? ''),
})
const admin = kafka.admin()

async function until(what, condition) {
  const deadline = Date.now() + SECONDS_MAX * 1000
  while (!(await condition())) {
    assert(Date.now() < deadline, `${SECONDS_MAX} s were not enough for ${what}`)
    await pause(20)
  }
}

/** A record as the scenarios compare it; before it was produced its offset is undefined. */
function record(partition, timestamp, key, value, headers = {}) {
  const bytes = (from) => (from === null ? null : Buffer.from(from))
  const lists = Object.entries(headers).map(([name, values]) => [name, [values].flat().map(bytes)])
  return { partition, timestamp: String(timestamp), key: bytes(key), value: bytes(value), headers: Object.fromEntries(lists) }
}

/** `count` records, one second apart. */
function numbered(count, partition, start) {
  return Array.from({ length: count }, (_, n) =>
    record(partition, start + 1000 * n, `key-${n}`, `value-${n} ${'abc'.repeat(40)}`))
}

function hourAgo() {
  return Date.now() - 3_600_000
}

/** Produces with acks=all and returns the records with the offsets that the broker gave them. */
async function produce(topic, records, { compression = CompressionTypes.None, idempotent = false, first = 0 } = {}) {
  const producer = kafka.producer({ idempotent, maxInFlightRequests: 1 })
  await producer.connect()
  const answers = await producer.send({ topic, acks: -1, compression, messages: records })
  await producer.disconnect()
  const next = {}
  for (const { partition, baseOffset, errorCode } of answers) {
    assert.equal(errorCode, 0)
    assert.equal(baseOffset, String(first), `base offset of partition ${partition}`)
    next[partition] = Number(baseOffset)
  }
  return records.map((one) => ({ ...one, offset: String(next[one.partition]++) }))
}

/** A member of a group: what it received, and the partitions it owns now. */
class Member {
  constructor(group, topic) {
    this.topic = topic
    this.records = []
    this.assignment = []
    this.consumer = kafka.consumer({ groupId: group, heartbeatInterval: 500, maxWaitTimeInMs: 200 })
    this.consumer.on(this.consumer.events.GROUP_JOIN, ({ payload }) => {
      this.assignment = payload.memberAssignment[topic] ?? []
    })
    this.consumer.on(this.consumer.events.REBALANCING, () => { this.assignment = [] })
  }

  async start() {
    await this.consumer.connect()
    await this.consumer.subscribe({ topic: this.topic, fromBeginning: true })
    await this.consumer.run({
      autoCommit: false,
      eachMessage: async ({ partition, message: { offset, timestamp, key, value, headers } }) => {
        const lists = Object.entries(headers).map(([name, values]) => [name, [values].flat()])
        this.records.push({ partition, timestamp, key, value, headers: Object.fromEntries(lists), offset })
      },
    })
    return this
  }

  commit(offsets) {
    return this.consumer.commitOffsets(offsets.map(([partition, offset]) => ({ topic: this.topic, partition, offset: String(offset) })))
  }

  close() {
    return this.consumer.disconnect()
  }
}

/** kafkajs reads only as a member of a group; this one is alone in its own. */
async function read(topic, count, seek) {
  const member = await new Member(`read-${topic}-${process.hrtime.bigint()}`, topic).start()
  if (seek) member.consumer.seek({ topic, ...seek })
  await until(`${count} records`, () => member.records.length >= count)
  await member.close()
  return member.records
}

function assertRecords(actual, expected) {
  const place = (one) => one.partition * 1e9 + Number(one.offset)
  assert.deepEqual(actual.toSorted((a, b) => place(a) - place(b)), expected.toSorted((a, b) => place(a) - place(b)))
}

async function create(topic, numPartitions) {
  assert.equal(await admin.createTopics({ topics: [{ topic, numPartitions, replicationFactor: -1 }] }), true)
}

async function adminScenario(topic) {
  await create(topic, 3)
  const placed = await produce(topic, [0, 1, 2].flatMap((partition) => numbered(2, partition, hourAgo())))
  assertRecords(await read(topic, 6), placed)
  assert((await admin.listTopics()).includes(topic), 'a created topic is not listed')
  const described = await admin.fetchTopicMetadata({ topics: [topic] })
  assert.deepEqual(described.topics[0].partitions.map((one) => one.partitionId).toSorted(), [0, 1, 2])
  await admin.deleteTopics({ topics: [topic] })
  await until('the deletion', async () => !(await admin.listTopics()).includes(topic))
}

async function roundtrip(topic) {
  await create(topic, 2)
  const start = hourAgo()
  const placed = await produce(topic, [
    record(0, start, 'key', 'value', { a: ['1', '2'], b: Buffer.from([0, 255]), empty: '' }),
    record(0, start + 7, null, 'no key'),
    record(1, start + 1, 'tombstone', null, { why: 'deleted' }),
    record(1, start + 2, '', ''),
    record(1, start + 3, 'schlüssel', Buffer.from(Array.from({ length: 256 }, (_, n) => n))),
    record(1, start + 4, 'large', 'x'.repeat(100_000)),
  ])
  assertRecords(await read(topic, 6), placed)
}

async function codec(topic, compression) {
  await create(topic, 1)
  const placed = await produce(topic, numbered(500, 0, hourAgo()), { compression })
  assertRecords(await read(topic, 500), placed)
}

async function idempotent(topic) {
  await create(topic, 1)
  const placed = await produce(topic, numbered(1000, 0, hourAgo()), { idempotent: true })
  assertRecords(await read(topic, 1000), placed)
}

async function commitResume(topic) {
  await create(topic, 1)
  const placed = await produce(topic, numbered(10, 0, hourAgo()))
  const group = `group-${topic}`
  const first = await new Member(group, topic).start()
  await until('10 records', () => first.records.length >= 10)
  await first.commit([[0, 4]])
  await first.close()
  assert.deepEqual((await admin.fetchOffsets({ groupId: group, topics: [topic] }))[0].partitions.map((one) => one.offset), ['4'])
  const second = await new Member(group, topic).start()
  await until('6 records', () => second.records.length >= 6)
  await second.close()
  assertRecords(first.records, placed)
  assertRecords(second.records, placed.slice(4))
}

async function rebalance(topic) {
  const everything = [0, 1, 2, 3]
  await create(topic, 4)
  const first = await new Member(`group-${topic}`, topic).start()
  await until('all partitions', () => first.assignment.length === 4)
  const second = await new Member(`group-${topic}`, topic).start()
  await until('half each', () => first.assignment.length === 2 && second.assignment.length === 2)
  assert.deepEqual([...first.assignment, ...second.assignment].toSorted(), everything)

  const placed = await produce(topic, everything.flatMap((partition) => numbered(5, partition, hourAgo())))
  await until('20 records', () => first.records.length + second.records.length >= 20)
  assertRecords([...first.records, ...second.records], placed)
  for (const member of [first, second]) {
    const partitions = new Set(member.records.map((one) => one.partition))
    assert.deepEqual([...partitions].toSorted(), member.assignment.toSorted())
    await member.commit(member.assignment.map((partition) => [partition, 5]))
  }

  await second.close()
  await until('all partitions again', () => first.assignment.length === 4)
  const before = first.records.length
  const more = await produce(topic, everything.flatMap((partition) => numbered(1, partition, hourAgo())), { first: 5 })
  await until('4 records', () => first.records.length >= before + 4)
  assertRecords(first.records.slice(before), more)
  await first.close()
}

async function offsetsForTimes(topic) {
  await create(topic, 1)
  const start = hourAgo()
  const placed = await produce(topic, numbered(10, 0, start))
  // Past the last record kafkajs answers with the end of the partition.
  for (const [after, offset] of [[-5000, '0'], [0, '0'], [2500, '3'], [9000, '9'], [9001, '10']]) {
    assert.deepEqual(await admin.fetchTopicOffsetsByTimestamp(topic, start + after), [{ partition: 0, offset }], `at ${after} ms`)
  }
  assertRecords(await read(topic, 7, { partition: 0, offset: '3' }), placed.slice(3))
}

const scenarios = {
  admin: adminScenario,
  roundtrip,
  ...Object.fromEntries(Object.entries(CODECS).map(([name, type]) => [`codec-${name}`, (topic) => codec(topic, type)])),
  idempotent,
  'commit-resume': commitResume,
  rebalance,
  'offsets-for-times': offsetsForTimes,
}

async function main() {
  await zstd.init()
  await admin.connect()
  const run = `kafkajs-${Date.now()}`
  let failed = false
  for (const [name, scenario] of Object.entries(scenarios)) {
    const stuck = setTimeout(() => {
      console.log(`FAIL kafkajs ${name}: no end after ${2 * SECONDS_MAX} s`)
      process.exit(1)
    }, 2000 * SECONDS_MAX)
    try {
      await scenario(`${run}-${name}`)
      console.log(`ok kafkajs ${name}`)
    } catch (error) {
      failed = true
      console.error(error)
      console.log(`FAIL kafkajs ${name}: ${String(error.message).slice(0, 500).replaceAll('\n', ' ')}`)
    }
    clearTimeout(stuck)
  }
  await admin.disconnect()
  process.exit(failed ? 1 : 0) // A client that failed may still hold connections.
}

main()
