/** Apache Kafka's server, which ends with code 0 after SIGTERM: a JVM alone would say 143. */
public class KafkaNode {
    public static void main(String[] arguments) throws Exception {
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            // All hooks run at once: Kafka's own is the one to wait for. Before it is there, nothing has to be closed.
            for (Thread thread : Thread.getAllStackTraces().keySet()) {
                if (thread.getName().equals("kafka-shutdown-hook")) {
                    awaitEnd(thread);
                }
            }
            Runtime.getRuntime().halt(0);
        }));
        kafka.Kafka.main(arguments);
    }

    private static void awaitEnd(Thread thread) {
        try {
            // Hooks are started in no order.
            while (thread.getState() == Thread.State.NEW) {
                Thread.sleep(10);
            }
            thread.join();
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }
}
