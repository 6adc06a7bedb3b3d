package interop;

import jakarta.servlet.http.HttpServlet;
import java.io.File;
import java.nio.file.Files;
import java.util.Map;
import java.util.Properties;
import org.apache.camel.CamelContext;
import org.apache.camel.builder.RouteBuilder;
import org.apache.catalina.Context;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;
import org.apache.cxf.BusFactory;
import org.apache.cxf.transport.servlet.CXFServlet;
import org.apache.tomcat.util.net.SSLHostConfig;
import org.apache.tomcat.util.net.SSLHostConfigCertificate;

/** Tomcat with mutual TLS, IPF's endpoints below {@code /services}. */
final class Web {
    private Web() {
    }

    /** Serves the routes until stdin ends. */
    static boolean serve(CamelContext camel, Properties settings, RouteBuilder routes) throws Exception {
        return serve(camel, settings, routes, Map.of());
    }

    /** Serves the routes, and servlets at paths of their own, until stdin ends. */
    static boolean serve(CamelContext camel, Properties settings, RouteBuilder routes, Map<String, HttpServlet> beside)
            throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(Files.createTempDirectory("ipf-counterpart").toString());
        Connector connector = new Connector();
        connector.setPort(Integer.parseInt(settings.getProperty("port")));
        connector.setScheme("https");
        connector.setSecure(true);
        connector.setProperty("address", "127.0.0.1");
        connector.setProperty("SSLEnabled", "true");
        SSLHostConfig tls = new SSLHostConfig();
        tls.setCertificateVerification("required");
        tls.setTrustStore(Tls.anchors(settings));
        SSLHostConfigCertificate own = new SSLHostConfigCertificate(tls, SSLHostConfigCertificate.Type.UNDEFINED);
        own.setCertificateFile(settings.getProperty("server.certificate", settings.getProperty("tls.certificate")));
        own.setCertificateKeyFile(settings.getProperty("server.key", settings.getProperty("tls.key")));
        tls.addCertificate(own);
        connector.addSslHostConfig(tls);
        tomcat.setConnector(connector);
        Context context = tomcat.addContext("", new File(".").getAbsolutePath());
        CXFServlet cxf = new CXFServlet();
        cxf.setBus(BusFactory.getDefaultBus());
        Tomcat.addServlet(context, "cxf", cxf).setLoadOnStartup(1);
        context.addServletMappingDecoded("/services/*", "cxf");
        beside.forEach((path, servlet) -> {
            Tomcat.addServlet(context, path, servlet);
            context.addServletMappingDecoded(path, path);
        });
        tomcat.start();

        camel.addRoutes(routes);
        camel.start();
        System.out.println("{\"ready\":true}");
        while (System.in.read() >= 0) {
            // Until our input is closed.
        }
        tomcat.stop();
        return true;
    }
}
