variable "name" {
  type    = string
  default = "quiver"
}

variable "runtime" {
  type        = string
  default     = "python3.13"
  description = "As the packages were built for (make lambda-package)."
}

variable "architecture" {
  type    = string
  default = "x86_64"
}

variable "database_url" {
  type        = string
  default     = ""
  sensitive   = true
  description = "A PostgreSQL with pgvector. Empty to create one, in the subnets."
}

variable "embedding_base_url" {
  type        = string
  description = "A LiteLLM proxy, or any server with OpenAI's embeddings API."
}

variable "embedding_api_key" {
  type      = string
  default   = ""
  sensitive = true
}

variable "embedding_model" {
  type    = string
  default = "all-minilm-l6-v2"
}

variable "vpc_id" {
  type        = string
  default     = ""
  description = "Of the database. Empty for a database with a public address."
}

variable "subnet_ids" {
  type        = list(string)
  default     = []
  description = "Two or more private ones, with ways to S3, SQS, Secrets Manager and the embedding service."
}

variable "worker_concurrency" {
  type        = number
  default     = 2
  description = "Invocations of the worker at once."
}
