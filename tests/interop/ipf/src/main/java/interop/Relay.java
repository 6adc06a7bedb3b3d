package interop;

import java.util.List;
import java.util.Map;
import java.util.Properties;
import javax.xml.namespace.QName;
import org.apache.camel.CamelContext;
import org.apache.camel.Exchange;
import org.apache.camel.builder.RouteBuilder;
import org.apache.cxf.binding.soap.SoapHeader;
import org.apache.cxf.headers.Header;
import org.openehealth.ipf.platform.camel.ihe.ws.AbstractWsEndpoint;

/** Stands between a consumer and another country's gateway as an IPF gateway would: RAD-75 in with its assertions, RAD-75 out,
 * the images back. The benchmark's peer. */
final class Relay {
    private static final QName SECURITY = new QName(
        "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd", "Security");

    private final CamelContext camel;
    private final Properties settings;

    Relay(CamelContext camel, Properties settings) {
        this.camel = camel;
        this.settings = settings;
    }

    boolean run() throws Exception {
        String onward = settings.getProperty("rad75.url").replaceFirst("^https://", "");
        return Web.serve(camel, settings, new RouteBuilder() {
            @Override
            public void configure() {
                from("xcai-rad75:rad75?audit=false")
                    .process(Relay::keepAssertions)
                    .to("xcai-rad75://" + onward + "?secure=true&audit=false&sslContextParameters=#tls")
                    .removeHeader(AbstractWsEndpoint.OUTGOING_SOAP_HEADERS);
            }
        });
    }

    private static void keepAssertions(Exchange exchange) {
        Map<?, ?> came = exchange.getIn().getHeader(AbstractWsEndpoint.INCOMING_SOAP_HEADERS, Map.class);
        Header security = (Header) came.get(SECURITY);
        List<Header> onward = List.of(new SoapHeader(SECURITY, security.getObject()));
        exchange.getIn().setHeader(AbstractWsEndpoint.OUTGOING_SOAP_HEADERS, onward);
    }
}
