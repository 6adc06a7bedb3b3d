import java.io.FileInputStream;
import java.io.InputStream;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/** One JSSE context with its session cache, and so many connections one after the other: Again PORT P12 ANCHORS PROTOCOL N. */
public class Again {
    public static void main(String[] args) throws Exception {
        char[] password = "changeit".toCharArray();
        KeyStore keys = KeyStore.getInstance("PKCS12");
        try (InputStream file = new FileInputStream(args[1])) {
            keys.load(file, password);
        }
        KeyManagerFactory own = KeyManagerFactory.getInstance("PKIX");
        own.init(keys, password);
        KeyStore anchors = KeyStore.getInstance("PKCS12");
        anchors.load(null, null);
        try (InputStream file = new FileInputStream(args[2])) {
            anchors.setCertificateEntry("root", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(anchors);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(own.getKeyManagers(), trust.getTrustManagers(), null);
        for (int n = 0; n < Integer.parseInt(args[4]); n++) {
            try (SSLSocket socket =
                    (SSLSocket) context.getSocketFactory().createSocket("localhost", Integer.parseInt(args[0]))) {
                socket.setEnabledProtocols(new String[] {args[3]});
                socket.getOutputStream().write('?');
                socket.getOutputStream().flush();
                System.out.println((char) socket.getInputStream().read());
            }
        }
    }
}
