package interop;

import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;
import org.apache.camel.CamelContext;
import org.apache.camel.impl.DefaultCamelContext;
import org.apache.cxf.BusFactory;

/** {@code client FILE}: asks the gateway, one JSON line a leg; {@code server FILE}: answers as other systems until stdin
 * ends; {@code relay FILE}: passes RAD-75 on until stdin ends. */
public final class Main {
    private Main() {
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length != 2) {
            System.err.println("usage: client|server|relay FILE");
            System.exit(64);
        }
        Properties settings = new Properties();
        try (Reader reader = Files.newBufferedReader(Path.of(arguments[1]))) {
            settings.load(reader);
        }
        CamelContext camel = new DefaultCamelContext();
        camel.getRegistry().bind("tls", Tls.parameters(settings));
        // A SOAP 1.2 fault of the sender comes with HTTP 400 (Part 2, table 20); CXF reads it only when told so.
        BusFactory.getDefaultBus().setProperty("org.apache.cxf.transport.process_fault_on_http_400", true);
        boolean ok;
        try {
            ok = switch (arguments[0]) {
                case "client" -> new Client(camel, settings).run();
                case "server" -> new Server(camel, settings).run();
                case "relay" -> new Relay(camel, settings).run();
                default -> throw new IllegalArgumentException(arguments[0]);
            };
        } finally {
            camel.close();
        }
        System.exit(ok ? 0 : 1);
    }
}
