package interop;

import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import javax.xml.namespace.QName;
import org.apache.camel.CamelContext;
import org.apache.camel.Exchange;
import org.apache.camel.builder.RouteBuilder;
import org.apache.cxf.headers.Header;
import org.openehealth.ipf.platform.camel.ihe.ws.AbstractWsEndpoint;

/** A gateway between two others as one would write it with IPF: RAD-75 in, the same request and assertions out. */
final class Relay {
    private final CamelContext camel;
    private final Properties settings;

    Relay(CamelContext camel, Properties settings) {
        this.camel = camel;
        this.settings = settings;
    }

    boolean run() throws Exception {
        String target = settings.getProperty("target").replaceFirst("^https://", "");
        String out = "xcai-rad75://" + target + "?secure=true&audit=false&sslContextParameters=#tls";
        RouteBuilder routes = new RouteBuilder() {
            @Override
            public void configure() {
                from("xcai-rad75:relay?audit=false").process(Relay::security).to(out);
            }
        };
        return Web.serve(camel, settings, routes, "/xcai/retrieve", new Entry());
    }

    private static void security(Exchange exchange) {
        List<Header> headers = new ArrayList<>();
        Map<?, ?> incoming = exchange.getIn().getHeader(AbstractWsEndpoint.INCOMING_SOAP_HEADERS, Map.class);
        incoming.forEach((name, header) -> {
            if (((QName) name).getLocalPart().equals("Security")) {
                headers.add((Header) header);
            }
        });
        exchange.getIn().setHeader(AbstractWsEndpoint.OUTGOING_SOAP_HEADERS, headers);
    }

    /** Other gateways know one address for RAD-75. */
    private static final class Entry extends HttpServlet {
        private static final long serialVersionUID = 1L;

        @Override
        protected void doPost(HttpServletRequest request, HttpServletResponse response)
                throws IOException, ServletException {
            request.getRequestDispatcher("/services/relay").forward(request, response);
        }
    }
}
