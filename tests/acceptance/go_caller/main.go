// A caller in Go, on the stubs that buf.gen.go.yaml makes: test_go_stubs.py builds it, runs it against the service, and
// judges what it prints. docs/stubs.md points here. It keeps to what gRPC for Go has had since 1.33, so that Debian's
// packages build it too; with a newer one, grpc.NewClient is the name of grpc.Dial, and insecure.NewCredentials() what
// grpc.WithInsecure() was.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/health" // without it healthCheckConfig does nothing
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	billingv1 "example.com/billing/gen/billing/v1"
)

const (
	deadline      = 10 * time.Second
	serviceConfig = `{
		"loadBalancingConfig": [{"round_robin": {}}],
		"healthCheckConfig": {"serviceName": "billing.v1.BillingService"}
	}`
)

// bearer puts the token into the "authorization" of each call.
type bearer struct {
	token   string
	overTLS bool
}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

func (b bearer) RequireTransportSecurity() bool { return b.overTLS }

func main() {
	log.SetFlags(0)
	connection, err := dial(os.Getenv("BILLING_ADDRESS"), os.Getenv("BILLING_TOKEN"), os.Getenv("BILLING_TLS_FOLDER"))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	billing := billingv1.NewBillingServiceClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	said, err := ask(ctx, billing, os.Getenv("ASK"), os.Getenv("CUSTOMER_ID"))
	if err != nil {
		said = refusalOf(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		log.Fatal(err)
	}
}

// dial connects in the clear, or with the certificates of a folder: ca.pem, and client.pem with client.key.
func dial(address, token, folder string) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithPerRPCCredentials(bearer{token, folder != ""}),
		grpc.WithDefaultServiceConfig(serviceConfig),
	}
	if folder == "" {
		return grpc.Dial(address, append(options, grpc.WithInsecure())...)
	}
	authority, err := os.ReadFile(filepath.Join(folder, "ca.pem"))
	if err != nil {
		return nil, err
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(folder, "client.pem"), filepath.Join(folder, "client.key"))
	if err != nil {
		return nil, err
	}
	known := x509.NewCertPool()
	if !known.AppendCertsFromPEM(authority) {
		return nil, errors.New("ca.pem has no certificate")
	}
	config := &tls.Config{RootCAs: known, Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12}
	return grpc.Dial(address, append(options, grpc.WithTransportCredentials(credentials.NewTLS(config)))...)
}

func ask(ctx context.Context, billing billingv1.BillingServiceClient, what, customer string) (any, error) {
	switch what {
	case "entitlements":
		answer, err := billing.GetEntitlements(ctx, &billingv1.GetEntitlementsRequest{CustomerId: customer})
		if err != nil {
			return nil, err
		}
		written, err := protojson.Marshal(answer)
		return json.RawMessage(written), err
	case "check":
		request := &billingv1.CheckEntitlementRequest{CustomerId: customer, FeatureKey: "projects"}
		answer, err := billing.CheckEntitlement(ctx, request)
		if err != nil {
			return nil, err
		}
		limit, ok := answer.GetValue().GetKind().(*billingv1.FeatureValue_IntegerValue)
		if !ok {
			return nil, fmt.Errorf("a value of another type: %v", answer.GetValue())
		}
		return limit.IntegerValue, nil
	case "checkout":
		_, err := billing.CreateCheckoutSession(ctx, &billingv1.CreateCheckoutSessionRequest{
			RequestId:  "go-1",
			CustomerId: customer,
			PlanKey:    "no-such-plan",
			SuccessUrl: "https://shop.example/thanks",
			CancelUrl:  "https://shop.example/plans",
		})
		return "it was made", err
	case "watch":
		return snapshot(ctx, billing, customer)
	}
	return nil, fmt.Errorf("nothing known of %q", what)
}

// snapshot reads the stream to the end of its snapshot, and gives the kinds of what came.
func snapshot(ctx context.Context, billing billingv1.BillingServiceClient, customer string) ([]string, error) {
	request := &billingv1.WatchEntitlementsRequest{CustomerIds: []string{customer}}
	stream, err := billing.WatchEntitlements(ctx, request)
	if err != nil {
		return nil, err
	}
	var kinds []string
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return kinds, nil
		}
		if err != nil {
			return nil, err
		}
		kinds = append(kinds, message.GetKind().String())
		if message.GetKind() == billingv1.WatchEntitlementsResponse_KIND_SNAPSHOT_END {
			return kinds, nil
		}
	}
}

// refusal is what the service said of a call that it refused. Reason is UNSPECIFIED where the service itself did not
// answer, and for a reason that is newer than these stubs: go by the code then.
type refusal struct {
	Code       string            `json:"code"`
	Reason     string            `json:"reason"`
	Violations map[string]string `json:"violations"`
}

func refusalOf(err error) refusal {
	failed := status.Convert(err)
	said := refusal{failed.Code().String(), billingv1.ErrorReason(0).String(), map[string]string{}}
	for _, detail := range failed.Details() {
		switch one := detail.(type) {
		case *errdetails.ErrorInfo:
			if one.GetDomain() == "billing.v1" {
				said.Reason = billingv1.ErrorReason(billingv1.ErrorReason_value["ERROR_REASON_"+one.GetReason()]).String()
			}
		case *errdetails.BadRequest:
			for _, violation := range one.GetFieldViolations() {
				said.Violations[violation.GetField()] = violation.GetDescription()
			}
		}
	}
	return said
}
