# Quiver on AWS Lambda, as in ../template.yaml: docs/aws.md says how to deploy it.

terraform {
  required_version = ">= 1.5"
  required_providers {
    archive = { source = "hashicorp/archive", version = "~> 2.4" }
    aws     = { source = "hashicorp/aws", version = "~> 6.0" }
    random  = { source = "hashicorp/random", version = "~> 3.6" }
  }
}

data "aws_caller_identity" "current" {}

locals {
  has_database = nonsensitive(var.database_url == "")
  in_vpc       = var.vpc_id != ""
  bucket       = "${var.name}-files-${data.aws_caller_identity.current.account_id}"
  proxy_url    = local.has_database ? "postgresql://quiver:${random_password.database[0].result}@${aws_db_proxy.this[0].endpoint}:5432/quiver?sslmode=require&pgbouncer=true" : ""

  # Past the proxy, for locks that last: those of the worker and of migrations.
  direct_url = local.has_database ? "postgresql://quiver:${random_password.database[0].result}@${aws_db_instance.this[0].address}:5432/quiver?sslmode=require" : ""

  functions = {
    api = {
      handler     = "api.lambda_handler.handler"
      memory_size = 1024
      timeout     = 29 # an HTTP API waits for 30
      ephemeral   = 512
    }
    worker = {
      handler     = "api.lambda_worker.handler"
      memory_size = 2048
      timeout     = 900
      ephemeral   = 4096 # of files that are being read, and their chunks
    }
  }

  variables = {
    QUIVER_SECRET_ARN   = aws_secretsmanager_secret.settings.arn
    FILES_DIR           = "s3://${local.bucket}/files"
    WAKE_QUEUE_URL      = aws_sqs_queue.wake.url
    EMBEDDING__BASE_URL = var.embedding_base_url
    EMBEDDING__MODEL    = var.embedding_model
  }
}

# The functions

data "archive_file" "package" {
  for_each    = local.functions
  type        = "zip"
  source_dir  = "${path.module}/../../../build/lambda/${each.key}"
  output_path = "${path.module}/../../../build/lambda/${each.key}.zip"
}

# A package of more than 50 MB, zipped, comes to Lambda by way of S3.
resource "aws_s3_object" "package" {
  for_each    = local.functions
  bucket      = aws_s3_bucket.files.id
  key         = "packages/${each.key}-${data.archive_file.package[each.key].output_md5}.zip"
  source      = data.archive_file.package[each.key].output_path
  source_hash = data.archive_file.package[each.key].output_md5
}

resource "aws_lambda_function" "this" {
  for_each                       = local.functions
  function_name                  = "${var.name}-${each.key}"
  role                           = aws_iam_role.functions.arn
  runtime                        = var.runtime
  architectures                  = [var.architecture]
  handler                        = each.value.handler
  memory_size                    = each.value.memory_size
  timeout                        = each.value.timeout
  reserved_concurrent_executions = each.key == "worker" ? var.worker_concurrency : -1
  s3_bucket                      = aws_s3_object.package[each.key].bucket
  s3_key                         = aws_s3_object.package[each.key].key

  ephemeral_storage {
    size = each.value.ephemeral
  }

  environment {
    variables = local.variables
  }

  dynamic "vpc_config" {
    for_each = local.in_vpc ? [1] : []
    content {
      subnet_ids         = var.subnet_ids
      security_group_ids = [aws_security_group.functions[0].id]
    }
  }

  lifecycle {
    precondition {
      condition     = local.in_vpc || !local.has_database
      error_message = "A database is created in a VPC; give vpc_id and subnet_ids, or database_url."
    }
  }
}

resource "aws_iam_role" "functions" {
  name = "${var.name}-functions"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "lambda.amazonaws.com" }, Action = "sts:AssumeRole" }]
  })
}

resource "aws_iam_role_policy" "access" {
  name = "access"
  role = aws_iam_role.functions.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
        Resource = "${aws_s3_bucket.files.arn}/files/*"
      },
      { Effect = "Allow", Action = "s3:ListBucket", Resource = aws_s3_bucket.files.arn },
      { Effect = "Allow", Action = "secretsmanager:GetSecretValue", Resource = aws_secretsmanager_secret.settings.arn },
      { Effect = "Allow", Action = "sqs:SendMessage", Resource = aws_sqs_queue.wake.arn },
    ]
  })
}

resource "aws_iam_role_policy_attachment" "functions" {
  for_each = toset(concat(
    ["service-role/AWSLambdaBasicExecutionRole", "service-role/AWSLambdaSQSQueueExecutionRole"],
    local.in_vpc ? ["service-role/AWSLambdaVPCAccessExecutionRole"] : [],
  ))
  role       = aws_iam_role.functions.name
  policy_arn = "arn:aws:iam::aws:policy/${each.value}"
}

# Requests

resource "aws_apigatewayv2_api" "this" {
  name          = var.name
  protocol_type = "HTTP"
}

resource "aws_apigatewayv2_stage" "this" {
  api_id      = aws_apigatewayv2_api.this.id
  name        = "$default"
  auto_deploy = true
}

resource "aws_apigatewayv2_integration" "api" {
  api_id                 = aws_apigatewayv2_api.this.id
  integration_type       = "AWS_PROXY"
  integration_uri        = aws_lambda_function.this["api"].invoke_arn
  payload_format_version = "2.0"
}

resource "aws_apigatewayv2_route" "api" {
  api_id    = aws_apigatewayv2_api.this.id
  route_key = "$default"
  target    = "integrations/${aws_apigatewayv2_integration.api.id}"
}

resource "aws_lambda_permission" "api" {
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.this["api"].function_name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_apigatewayv2_api.this.execution_arn}/*"
}

# The queue is drained every minute, and at once when somebody sends a message, whatever it says

resource "aws_scheduler_schedule" "worker" {
  name                = "${var.name}-worker"
  schedule_expression = "rate(1 minute)"

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = aws_lambda_function.this["worker"].arn
    role_arn = aws_iam_role.scheduler.arn

    retry_policy {
      maximum_retry_attempts = 0 # the next minute comes anyway
    }
  }
}

resource "aws_iam_role" "scheduler" {
  name = "${var.name}-scheduler"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "scheduler.amazonaws.com" }, Action = "sts:AssumeRole" }]
  })
}

resource "aws_iam_role_policy" "scheduler" {
  name = "invoke"
  role = aws_iam_role.scheduler.id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "lambda:InvokeFunction", Resource = aws_lambda_function.this["worker"].arn }]
  })
}

resource "aws_sqs_queue" "wake" {
  name                       = "${var.name}-wake"
  visibility_timeout_seconds = 960 # longer than the worker takes
  message_retention_seconds  = 3600
  sqs_managed_sse_enabled    = true
}

resource "aws_sqs_queue_policy" "wake" {
  queue_url = aws_sqs_queue.wake.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "s3.amazonaws.com" }
      Action    = "sqs:SendMessage"
      Resource  = aws_sqs_queue.wake.arn
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id } }
    }]
  })
}

resource "aws_lambda_event_source_mapping" "wake" {
  event_source_arn        = aws_sqs_queue.wake.arn
  function_name           = aws_lambda_function.this["worker"].arn
  batch_size              = 10
  function_response_types = ["ReportBatchItemFailures"]
}

# Files

resource "aws_s3_bucket" "files" {
  bucket = local.bucket

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "files" {
  bucket = aws_s3_bucket.files.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_public_access_block" "files" {
  bucket                  = aws_s3_bucket.files.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_lifecycle_configuration" "files" {
  bucket = aws_s3_bucket.files.id
  rule {
    id     = "unfinished-uploads"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}

resource "aws_s3_bucket_notification" "files" {
  bucket = aws_s3_bucket.files.id
  queue {
    queue_arn = aws_sqs_queue.wake.arn
    events    = ["s3:ObjectCreated:*"]
  }
  depends_on = [aws_sqs_queue_policy.wake]
}

# What the functions read when they start: settings by their names in the environment

resource "random_password" "server_key" {
  length  = 48
  special = false
}

resource "aws_secretsmanager_secret" "settings" {
  name_prefix = "${var.name}-settings-"
}

resource "aws_secretsmanager_secret_version" "settings" {
  secret_id = aws_secretsmanager_secret.settings.id
  secret_string = jsonencode({
    DATABASE_URL        = local.has_database ? local.proxy_url : var.database_url
    DATABASE_DIRECT_URL = local.direct_url
    SERVER_API_KEY      = random_password.server_key.result
    EMBEDDING__API_KEY  = var.embedding_api_key
  })
}
