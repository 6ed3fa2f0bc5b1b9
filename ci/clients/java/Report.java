import java.util.Arrays;
import java.util.Objects;
import java.util.Timer;
import java.util.TimerTask;
import java.util.function.BooleanSupplier;

/** Runs scenarios, prints a line for each, and remembers whether one failed. */
final class Report {
    /** How long anything that must happen may take: a generous bound, not a measurement. */
    static final int SECONDS_MAX = 60;

    interface Scenario {
        void run(String topic) throws Exception;
    }

    private final String suite;
    private final String run;
    private boolean failed;

    Report(String suite) {
        this.suite = suite;
        this.run = suite + "-" + System.nanoTime();
    }

    /** Runs one scenario with a topic name of its own. */
    void scenario(String name, Scenario scenario) {
        Timer stuck = new Timer(true);
        stuck.schedule(new TimerTask() {
            @Override
            public void run() {
                System.out.println("FAIL " + suite + " " + name + ": no end after " + 2 * SECONDS_MAX + " s");
                Runtime.getRuntime().halt(1);
            }
        }, 2000L * SECONDS_MAX);
        try {
            scenario.run(run + "-" + name);
            System.out.println("ok " + suite + " " + name);
        } catch (Exception | AssertionError error) {
            failed = true;
            error.printStackTrace();
            System.out.println("FAIL " + suite + " " + name + ": " + error.toString().replace('\n', ' '));
        } finally {
            stuck.cancel();
        }
    }

    int exitCode() {
        return failed ? 1 : 0;
    }

    static void until(String what, BooleanSupplier condition) {
        long deadline = System.nanoTime() + SECONDS_MAX * 1_000_000_000L;
        while (!condition.getAsBoolean()) {
            check(System.nanoTime() < deadline, SECONDS_MAX + " s were not enough for " + what);
        }
    }

    static void check(boolean holds, String why) {
        if (!holds) {
            throw new AssertionError(why);
        }
    }

    static void equal(Object actual, Object expected, String what) {
        check(Objects.deepEquals(actual, expected), what + ": expected " + shown(expected) + ", got " + shown(actual));
    }

    private static String shown(Object value) {
        String text = value instanceof byte[] bytes ? Arrays.toString(bytes) : String.valueOf(value);
        return text.length() > 500 ? text.substring(0, 500) + "..." : text;
    }
}
