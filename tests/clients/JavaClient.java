// Java's HttpClient as a client; by default it offers an upgrade to HTTP/2 with its first request. Prints what it found.

import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

public class JavaClient {
  static final HttpClient CLIENT = HttpClient.newHttpClient();

  static HttpRequest asking(BodyPublisher body, String key) {
    URI uri = URI.create(System.getenv("OPENAI_BASE_URL") + "/chat/completions");
    HttpRequest.Builder request = HttpRequest.newBuilder(uri).header("Authorization", "Bearer " + key);
    return request.header("Content-Type", "application/json").POST(body).build();
  }

  static byte[] body(boolean stream) {
    String question = "[{\"role\": \"user\", \"content\": \"The capital of France?\"}]";
    return ("{\"model\": \"gpt-4o-mini\", \"stream\": " + stream + ", \"messages\": " + question + "}").getBytes();
  }

  static void print(String name, HttpRequest request) throws Exception {
    var answer = CLIENT.send(request, BodyHandlers.ofString());
    System.out.println(name + " " + answer.statusCode() + " " + answer.version() + " " + answer.body().strip());
  }

  public static void main(String[] arguments) throws Exception {
    String key = System.getenv("OPENAI_API_KEY");
    print("plain", asking(BodyPublishers.ofByteArray(body(false)), key));
    print("chunked", asking(BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body(false))), key));
    print("refused", asking(BodyPublishers.ofByteArray(body(false)), System.getenv("WRONG_KEY")));
    var lines = CLIENT.send(asking(BodyPublishers.ofByteArray(body(true)), key), BodyHandlers.ofLines()).body();
    System.out.println("events " + lines.filter(line -> line.startsWith("data: ")).count());
  }
}
