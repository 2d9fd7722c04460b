output "base_url" {
  description = "For the base_url of OpenAI's client."
  value       = "${aws_apigatewayv2_api.this.api_endpoint}/v1"
}

output "server_key" {
  description = "What callers send."
  value       = random_password.server_key.result
  sensitive   = true
}

output "worker" {
  description = "The function to invoke with {\"migrate\":true} after each deployment."
  value       = aws_lambda_function.this["worker"].function_name
}
