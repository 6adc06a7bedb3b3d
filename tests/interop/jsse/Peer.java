import java.io.FileInputStream;
import java.io.InputStream;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Arrays;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/** A client with the settings of the platform and one JSSE context, which keeps sessions: Peer WHAT P12 ANCHORS …. */
public class Peer {
    public static void main(String[] args) throws Exception {
        SSLContext context = context(args[1], args[2]);
        String[] more = Arrays.copyOfRange(args, 3, args.length);
        switch (args[0]) {
            case "connect" -> connect(context, Integer.parseInt(more[0]), more[1], Integer.parseInt(more[2]));
            case "call" -> call(context, more[0], more[1], Path.of(more[2]));
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    private static SSLContext context(String own, String roots) throws Exception {
        char[] password = "changeit".toCharArray();
        KeyStore keys = KeyStore.getInstance("PKCS12");
        try (InputStream file = new FileInputStream(own)) {
            keys.load(file, password);
        }
        KeyManagerFactory shown = KeyManagerFactory.getInstance("PKIX");
        shown.init(keys, password);
        KeyStore anchors = KeyStore.getInstance("PKCS12");
        anchors.load(null, null);
        try (InputStream file = new FileInputStream(roots)) {
            anchors.setCertificateEntry("root", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(anchors);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(shown.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    /** So many connections one after the other, a byte each way: connect … PORT PROTOCOL N. */
    private static void connect(SSLContext context, int port, String protocol, int times) throws Exception {
        for (int n = 0; n < times; n++) {
            try (SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket("localhost", port)) {
                socket.setEnabledProtocols(new String[] {protocol});
                socket.getOutputStream().write('?');
                socket.getOutputStream().flush();
                System.out.println((char) socket.getInputStream().read());
            }
        }
    }

    /**
     * The platform's own HTTP client with its pool posts each message of a folder, with the pause before it in milliseconds
     * from a file: call … URL FOLDER PAUSES. A line for each call that failed, then their number.
     */
    private static void call(SSLContext context, String url, String folder, Path listed) throws Exception {
        String[] pauses = Files.readString(listed).trim().split(",");
        int failed = 0;
        for (int n = 0; n < pauses.length; n++) {
            Thread.sleep(Long.parseLong(pauses[n]));
            try {
                HttpsURLConnection call = (HttpsURLConnection) URI.create(url).toURL().openConnection();
                call.setSSLSocketFactory(context.getSocketFactory());
                call.setRequestProperty("Content-Type", "application/soap+xml; charset=UTF-8");
                call.setDoOutput(true);
                call.getOutputStream().write(Files.readAllBytes(Path.of(folder, n + ".xml")));
                byte[] answer = call.getInputStream().readAllBytes();
                if (call.getResponseCode() != 200 || !new String(answer, "UTF-8").contains("ResponseStatusType:Success")) {
                    throw new IllegalStateException("HTTP " + call.getResponseCode());
                }
            } catch (Exception error) {
                failed++;
                System.out.println("call " + n + " after " + pauses[n] + " ms: " + error);
            }
        }
        System.out.println("calls " + pauses.length + " failed " + failed);
    }
}
